package main

import (
	"io"
	"log"
	"maps"
	"net/http"

	"tykpy.test/gateway/internal/coprocess"
)

// proxy sends the request on, runs the response hooks, and writes what comes of it.
func (p *passage) proxy() *refusal {
	out, err := http.NewRequestWithContext(p.r.Context(), p.r.Method, p.target(), p.r.Body)
	if err != nil {
		return &refusal{http.StatusInternalServerError, "There was a problem proxying the request"}
	}
	out.Header, out.Host, out.ContentLength = p.r.Header.Clone(), p.r.Host, p.r.ContentLength
	response, err := p.gateway.transport.RoundTrip(out)
	if err != nil {
		log.Print("upstream: ", err)
		return &refusal{http.StatusInternalServerError, "There was a problem proxying the request"}
	}
	defer func() { response.Body.Close() }()
	for _, hook := range enabled(p.api.Middleware.Response, coprocess.HookType_Response) {
		if !p.callResponse(hook, response) {
			return &refusal{http.StatusInternalServerError, "Middleware error"}
		}
	}
	maps.Copy(p.w.Header(), response.Header)
	p.w.WriteHeader(response.StatusCode) // panics on 0, as in Tyk
	_, _ = io.Copy(p.w, response.Body)
	return responded
}

// callResponse runs one response hook: Tyk's CustomMiddlewareResponseHook.HandleResponse.
func (p *passage) callResponse(hook Hook, response *http.Response) bool {
	object, err := buildObject(p.r, response, p.api, hook, p.session)
	if err != nil {
		return false
	}
	returned, err := p.gateway.dispatch(p.r.Context(), object)
	if err != nil {
		log.Printf("dispatch of %s: %v", hook.Name, err)
		return false
	}
	if returned.Response == nil {
		log.Printf("%s returned no response", hook.Name)
		return false
	}
	applyResponse(response, object.Response, returned.Response)
	return true
}
