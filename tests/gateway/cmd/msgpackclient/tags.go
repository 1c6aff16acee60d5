package main

import (
	"encoding/base64"
	"fmt"
	"strconv"
)

const (
	intTag    = "$int"
	doubleTag = "$double"
	bytesTag  = "$bytes"
)

// untag converts tagged JSON to Go values.
func untag(value any) (any, error) {
	switch typed := value.(type) {
	case map[string]any:
		return untagMap(typed)
	case []any:
		untagged := make([]any, len(typed))
		for at, element := range typed {
			var err error
			if untagged[at], err = untag(element); err != nil {
				return nil, err
			}
		}
		return untagged, nil
	case float64:
		return nil, fmt.Errorf("a number needs a tag: %v", typed)
	}
	return value, nil
}

func untagMap(value map[string]any) (any, error) {
	if text, found := value[intTag].(string); found {
		return strconv.ParseInt(text, 10, 64)
	}
	if number, found := value[doubleTag].(float64); found {
		return number, nil
	}
	if text, found := value[bytesTag].(string); found {
		return base64.StdEncoding.DecodeString(text)
	}
	untagged := make(map[string]any, len(value))
	for key, element := range value {
		var err error
		if untagged[key], err = untag(element); err != nil {
			return nil, err
		}
	}
	return untagged, nil
}

// tag converts decoded values to tagged JSON.
func tag(value any) any {
	switch typed := value.(type) {
	case int64, uint64:
		return map[string]any{intTag: fmt.Sprint(typed)}
	case float32, float64:
		return map[string]any{doubleTag: typed}
	case []byte:
		return map[string]any{bytesTag: base64.StdEncoding.EncodeToString(typed)}
	case []any:
		tagged := make([]any, len(typed))
		for at, element := range typed {
			tagged[at] = tag(element)
		}
		return tagged
	case map[string]any:
		tagged := make(map[string]any, len(typed))
		for key, element := range typed {
			tagged[key] = tag(element)
		}
		return tagged
	}
	return value
}
