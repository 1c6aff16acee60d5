package main

import (
	"log"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"tykpy.test/gateway/internal/coprocess"
)

// Rewrite is a URL rewrite of one path: Tyk's apidef.URLRewriteMeta without triggers.
type Rewrite struct {
	Path         string `json:"path"`
	MatchPattern string `json:"match_pattern"`
	RewriteTo    string `json:"rewrite_to"`
}

// MethodTransform is Tyk's apidef.MethodTransformMeta.
type MethodTransform struct {
	Path     string `json:"path"`
	ToMethod string `json:"to_method"`
}

// path returns the request's path without the API's listen path.
func (p *passage) path() string {
	return strings.TrimPrefix(p.r.URL.Path, strings.TrimSuffix(p.api.ListenPath, "/"))
}

// transform records where and how the request will be sent. It takes effect after the Post hooks, which see it nevertheless.
func (p *passage) transform() *refusal {
	path := p.path()
	if rewrite := p.api.Rewrite; rewrite.Path != "" && rewrite.Path == path {
		expression, err := regexp.Compile(rewrite.MatchPattern)
		if err == nil && expression.MatchString(p.r.URL.String()) {
			p.rewritten, err = url.Parse(rewrite.RewriteTo)
		}
		if err != nil {
			log.Print("URL rewrite: ", err)
			return &refusal{http.StatusInternalServerError, err.Error()}
		}
	}
	if change := p.api.MethodTransform; change.Path != "" && change.Path == path {
		p.transformed = change.ToMethod
	}
	return nil
}

// showTransforms makes the hook see the request as it will be sent.
func (p *passage) showTransforms(request *coprocess.MiniRequestObject) {
	if p.rewritten != nil {
		request.Url = p.rewritten.String()
		request.RequestUri = p.rewritten.RequestURI()
	}
	if p.transformed != "" {
		request.Method = p.transformed
	}
}

// direct turns the request into that for the upstream: Tyk's DummyProxyHandler and the proxy's director. A rewrite to
// another host is followed as it is, even if a hook has reduced it to a path.
func (p *passage) direct() error {
	if p.transformed != "" {
		p.r.Method = p.transformed
	}
	target, err := url.Parse(p.upstream())
	if err != nil {
		return err
	}
	if p.rewritten != nil {
		p.r.URL = p.rewritten
		if rewrite, err := url.Parse(p.api.Rewrite.RewriteTo); err != nil || rewrite.Host != "" {
			return err
		}
	} else if err := p.stripListenPath(); err != nil {
		return err
	}
	p.r.URL.Scheme, p.r.URL.Host = target.Scheme, target.Host
	return nil
}

func (p *passage) upstream() string {
	if p.api.Target != "" {
		return p.api.Target
	}
	return "http://" + p.gateway.upstream
}

func (p *passage) stripListenPath() error {
	rest := strings.TrimPrefix(p.r.URL.RequestURI(), strings.TrimSuffix(p.api.ListenPath, "/"))
	stripped, err := url.Parse("/" + strings.TrimPrefix(rest, "/"))
	if err == nil {
		p.r.URL = stripped
	}
	return err
}
