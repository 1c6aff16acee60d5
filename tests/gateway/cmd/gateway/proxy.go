package main

import (
	"bytes"
	"io"
	"log"
	"net/http"

	"tykpy.test/gateway/internal/coprocess"
)

// proxy forwards the request, and responds with the answer.
func (p *passage) proxy() *refusal {
	response, err := p.roundTrip()
	if err != nil {
		log.Print("upstream: ", err)
		return &refusal{http.StatusInternalServerError, "There was a problem proxying the request"}
	}
	defer func() { response.Body.Close() }()
	return p.respond(response)
}

func (p *passage) responseHooks(response *http.Response) *refusal {
	for _, hook := range enabled(p.api.Middleware.Response, coprocess.HookType_Response) {
		if !p.callResponse(hook, response) {
			return &refusal{http.StatusInternalServerError, "Middleware error"}
		}
	}
	return nil
}

// roundTrip sends the request, and leaves it readable for the response hooks.
func (p *passage) roundTrip() (*http.Response, error) {
	if err := p.direct(); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(p.r.Body)
	if err != nil {
		return nil, err
	}
	setBody(p.r, body)
	out, err := http.NewRequestWithContext(p.r.Context(), p.r.Method, p.r.URL.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header, out.Host, out.ContentLength = p.r.Header.Clone(), p.r.Host, int64(len(body))
	return p.gateway.transport.RoundTrip(out)
}

// callResponse runs one response hook: Tyk's CustomMiddlewareResponseHook.HandleResponse.
func (p *passage) callResponse(hook Hook, response *http.Response) bool {
	object, err := buildObject(p.r, response, p.api, hook, p.session)
	if err != nil {
		return false
	}
	if object.Session == nil {
		object.Session = new(Session).toProto() // Tyk's response hooks always have one, its metadata not in the object's
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
