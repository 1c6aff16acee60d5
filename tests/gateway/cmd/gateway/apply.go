package main

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"strconv"

	"tykpy.test/gateway/internal/coprocess"
)

// applyRequest changes the request as the returned object says: Tyk's ObjectPostProcess. A reply without a request
// is a nil pointer here, as in Tyk.
func (p *passage) applyRequest(returned *coprocess.Object) error {
	r, request := p.r, returned.Request
	setBody(r, request.RawBody)
	for _, key := range request.DeleteHeaders {
		r.Header.Del(key)
	}
	for key, value := range request.SetHeaders {
		r.Header.Set(key, value)
	}
	query := r.URL.Query()
	for _, key := range request.DeleteParams {
		query.Del(key)
	}
	for key, value := range request.AddParams {
		query.Set(key, value)
	}
	parsed, err := url.ParseRequestURI(request.Url)
	if err != nil {
		return err
	}
	if p.rewritten != nil {
		p.rewritten = parsed // whole, its query with it: the parameters change the request's own URL only
	} else {
		r.URL = parsed
	}
	if p.transformed != "" {
		p.transformed = request.Method
	} else {
		r.Method = request.Method
	}
	if !reflect.DeepEqual(r.URL.Query(), query) {
		r.URL.RawQuery = query.Encode()
	}
	return nil
}

// applyResponse rebuilds the response from what a response hook returned.
func applyResponse(response *http.Response, sent, returned *coprocess.ResponseObject) {
	many := returned.MultivalueHeaders
	if !maps.Equal(sent.Headers, returned.Headers) {
		many = synchronised(returned.Headers, many)
	}
	clear(response.Header)
	for _, header := range many {
		for _, value := range header.Values {
			response.Header.Add(header.Key, value)
		}
	}
	response.Body = io.NopCloser(bytes.NewReader(returned.RawBody))
	response.ContentLength = int64(len(returned.RawBody))
	response.Header.Set("Content-Length", strconv.Itoa(len(returned.RawBody)))
	response.StatusCode = int(returned.StatusCode)
}

// synchronised copies changes of the single-valued headers into the multi-valued ones: Tyk's
// syncHeadersAndMultiValueHeaders.
func synchronised(headers map[string]string, many []*coprocess.Header) []*coprocess.Header {
	known := map[string]bool{}
	var kept []*coprocess.Header
	for _, header := range many {
		value, stays := headers[header.Key]
		if !stays {
			continue
		}
		if !known[header.Key] && len(header.Values) > 0 {
			header.Values[0] = value
		}
		known[header.Key] = true
		kept = append(kept, header)
	}
	for key, value := range headers {
		if !known[key] {
			kept = append(kept, &coprocess.Header{Key: key, Values: []string{value}})
		}
	}
	return kept
}

func setBody(r *http.Request, body []byte) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
}
