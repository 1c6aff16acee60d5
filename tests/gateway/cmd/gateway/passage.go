package main

import (
	"fmt"
	"log"
	"net/http"
	"net/url"
	"strings"
	"text/template"

	"tykpy.test/gateway/internal/coprocess"
)

// passage is one request on its way through its API's chain.
type passage struct {
	gateway *Gateway
	api     *API
	w       http.ResponseWriter
	r       *http.Request
	key     string
	session *Session

	rewritten   *url.URL // where a URL rewrite of the API sends the request
	transformed string   // the method that a method transform of the API gives it
	cacheKey    string   // of the response, if it is to be kept
}

// grpcDriver is the only one of Tyk's drivers that is implemented here.
const grpcDriver = "grpc"

// responded says that the answer has been written, and nothing follows.
var responded = &refusal{}

func newPassage(gateway *Gateway, api *API, w http.ResponseWriter, r *http.Request) *passage {
	return &passage{gateway: gateway, api: api, w: w, r: r}
}

// run goes through Tyk's order: Pre, limits, authentication, PostKeyAuth, access rights, rate and quota, transforms,
// answers of its own, Post, upstream, Response. An API without keys has no PostKeyAuth.
func (p *passage) run() {
	steps := []func() *refusal{
		p.reply,
		p.hooks(enabled(p.api.Middleware.Pre, coprocess.HookType_Pre)),
		p.checkSize,
		p.authenticate,
		p.hooks(enabled(p.api.postKeyAuth(), coprocess.HookType_PostKeyAuth)),
		p.checkAccess,
		p.checkLimits,
		p.transform,
		p.answer,
		p.hooks(enabled(p.api.Middleware.Post, coprocess.HookType_Post)),
		p.proxy,
	}
	for _, step := range steps {
		if refused := step(); refused != nil {
			if refused != responded {
				refused.write(p.w, p.r)
			}
			return
		}
	}
}

// hooks makes one call per hook, in order.
func (p *passage) hooks(hooks []Hook) func() *refusal {
	return func() *refusal {
		for _, hook := range hooks {
			if _, refused := p.call(hook); refused != nil {
				return refused
			}
		}
		return nil
	}
}

// call runs one request hook and applies its answer: Tyk's CoProcessMiddleware.ProcessRequest.
func (p *passage) call(hook Hook) (*coprocess.Object, *refusal) {
	if p.api.Middleware.Driver != grpcDriver {
		return nil, &refusal{http.StatusInternalServerError, http.StatusText(http.StatusInternalServerError)}
	}
	object, err := buildObject(p.r, nil, p.api, hook, p.session)
	if err != nil {
		return nil, &refusal{http.StatusInternalServerError, "Middleware error"}
	}
	p.showTransforms(object.Request)
	returned, err := p.gateway.dispatch(p.r.Context(), object)
	if err != nil {
		log.Printf("dispatch of %s: %v", hook.Name, err)
		if hook.Type == coprocess.HookType_CustomKeyCheck {
			return nil, &refusal{http.StatusForbidden, "Key not authorised"}
		}
		return nil, &refusal{http.StatusInternalServerError, "Middleware error"}
	}
	if err := p.applyRequest(returned); err != nil {
		log.Printf("what %s returned: %v", hook.Name, err)
		return nil, &refusal{http.StatusInternalServerError, "Middleware error"}
	}
	mergeMetadata(returned)
	return returned, p.override(returned)
}

// mergeMetadata overwrites the session's metadata with the object's own.
func mergeMetadata(object *coprocess.Object) {
	if object.Session == nil {
		return
	}
	if object.Session.Metadata == nil {
		object.Session.Metadata = map[string]string{}
	}
	for key, value := range object.Metadata {
		object.Session.Metadata[key] = value
	}
}

// override answers in place of the upstream if a hook asks for it.
func (p *passage) override(object *coprocess.Object) *refusal {
	overrides := object.Request.ReturnOverrides
	if overrides.ResponseError != "" {
		overrides.ResponseBody = overrides.ResponseError
	}
	if overrides.ResponseCode <= 0 {
		return nil
	}
	for key, value := range overrides.Headers {
		p.w.Header().Set(key, value)
	}
	if overrides.ResponseCode >= http.StatusBadRequest && !overrides.OverrideError {
		p.gateway.authFailed(p.r, p.api, object.Session.GetMetadata()["token"])
		message := "Key not authorised"
		if overrides.ResponseBody != "" {
			message = overrides.ResponseBody
		}
		return &refusal{int(overrides.ResponseCode), message}
	}
	p.w.WriteHeader(int(overrides.ResponseCode))
	fmt.Fprint(p.w, overrides.ResponseBody)
	return responded
}

// checkSize checks the only limit of this gateway, between Pre and authentication.
func (p *passage) checkSize() *refusal {
	if limit := p.gateway.config.MaxBodySize; limit > 0 && p.r.ContentLength > limit {
		return &refusal{http.StatusBadRequest, "Request is too large"}
	}
	return nil
}

func (p *passage) checkAccess() *refusal {
	if p.session == nil || len(p.session.AccessRights) == 0 {
		return nil
	}
	if _, allowed := p.session.AccessRights[p.api.ID]; !allowed {
		return &refusal{http.StatusForbidden, "Access to this API has been disallowed"}
	}
	return nil
}

// checkLimits counts the request, and stores the session with the rest of its quota.
func (p *passage) checkLimits() *refusal {
	if p.session == nil {
		return nil
	}
	message, code, err := p.gateway.keys.allow(p.r.Context(), p.key, p.session)
	if err == nil {
		err = p.gateway.keys.store(p.r.Context(), p.key, p.session)
	}
	if err != nil {
		log.Print("Redis: ", err)
		return &refusal{http.StatusInternalServerError, "There was a problem proxying the request"}
	}
	if message != "" {
		return &refusal{code, message}
	}
	return nil
}

// refusal ends a request with Tyk's error template.
type refusal struct {
	code    int
	message string
}

const (
	jsonTemplate = "{\n    \"error\": \"%s\"\n}"
	xmlTemplate  = "<?xml version = \"1.0\" encoding = \"UTF-8\"?>\n<error>%s</error>"
)

// write answers in XML if the request's content type is XML, else in JSON.
func (e *refusal) write(w http.ResponseWriter, r *http.Request) {
	body, contentType := jsonTemplate, "application/json"
	switch kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind {
	case "application/xml", "text/xml":
		body, contentType = xmlTemplate, kind
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Generator", "tyk.io")
	w.WriteHeader(e.code)
	fmt.Fprintf(w, body, template.JSEscapeString(e.message))
}
