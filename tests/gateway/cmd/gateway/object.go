package main

import (
	"encoding/json"
	"io"
	"net/http"
	"unicode/utf8"

	"tykpy.test/gateway/internal/bundles"
	"tykpy.test/gateway/internal/coprocess"
)

// noOverride is the response code of an object that overrides nothing.
const noOverride = -1

// buildObject makes the object that a hook receives: Tyk's CoProcessor.BuildObject.
func buildObject(r *http.Request, response *http.Response, api *API, hook Hook, session *Session) (*coprocess.Object, error) {
	request, err := buildRequest(r, hook.RawBodyOnly)
	if err != nil {
		return nil, err
	}
	object := &coprocess.Object{HookType: hook.Type, HookName: hook.Name, Request: request}
	if object.Spec, err = buildSpec(api); err != nil {
		return nil, err
	}
	if session != nil && hook.Type != coprocess.HookType_Pre && hook.Type != coprocess.HookType_CustomKeyCheck {
		object.Session = session.toProto()
		object.Metadata = object.Session.Metadata
	}
	if response != nil {
		object.Response, err = buildResponse(response, hook.RawBodyOnly)
	}
	return object, err
}

func buildRequest(r *http.Request, rawBodyOnly bool) (*coprocess.MiniRequestObject, error) {
	headers := firstValues(r.Header)
	headers["Host"] = r.Host
	request := &coprocess.MiniRequestObject{
		Headers:         headers,
		Url:             r.URL.String(),
		Params:          firstValues(r.URL.Query()),
		ReturnOverrides: &coprocess.ReturnOverrides{ResponseCode: noOverride},
		Method:          r.Method,
		RequestUri:      r.RequestURI,
		Scheme:          "http",
	}
	if r.TLS != nil {
		request.Scheme = "https"
	}
	body, err := io.ReadAll(r.Body)
	setBody(r, body)
	request.RawBody = body
	if utf8.Valid(body) && !rawBodyOnly {
		request.Body = string(body)
	}
	return request, err
}

func buildSpec(api *API) (map[string]string, error) {
	spec := map[string]string{"OrgID": api.OrgID, "APIID": api.ID, "bundle_hash": bundles.Hash(api.Bundle)}
	if len(api.ConfigData) > 0 && !api.ConfigDataDisabled {
		text, err := json.Marshal(api.ConfigData)
		if err != nil {
			return nil, err
		}
		spec["config_data"] = string(text)
	}
	return spec, nil
}

// buildResponse buffers the whole body.
func buildResponse(response *http.Response, rawBodyOnly bool) (*coprocess.ResponseObject, error) {
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	object := &coprocess.ResponseObject{
		StatusCode: int32(response.StatusCode),
		RawBody:    body,
		Headers:    firstValues(response.Header),
	}
	for key, values := range response.Header {
		object.MultivalueHeaders = append(object.MultivalueHeaders, &coprocess.Header{Key: key, Values: values})
	}
	if utf8.Valid(body) && !rawBodyOnly {
		object.Body = string(body)
	}
	return object, err
}

func firstValues(many map[string][]string) map[string]string {
	first := make(map[string]string, len(many))
	for key, values := range many {
		first[key] = values[0]
	}
	return first
}
