package main

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
)

// OwnAnswer is the gateway's answer on one path, in place of the upstream's.
type OwnAnswer struct {
	Path string `json:"path"`
	Code int    `json:"code"`
	Body string `json:"body"`
}

func (a OwnAnswer) response() *http.Response {
	return &http.Response{
		StatusCode: a.Code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a.Body)),
	}
}

// reply answers before anything else: the "reply" action of a path in a classic API definition, in Tyk's VersionCheck.
func (p *passage) reply() *refusal {
	if own := p.api.Reply; own.Path != "" && own.Path == p.path() {
		return p.write(own.response())
	}
	return nil
}

// answer responds with a mock or a virtual endpoint, which response hooks may change, or with what is in the cache.
// Tyk does this after all transforms and before the Post hooks.
func (p *passage) answer() *refusal {
	for _, own := range []OwnAnswer{p.api.Mock, p.api.Virtual} {
		if own.Path != "" && own.Path == p.path() {
			return p.respond(own.response())
		}
	}
	if !p.isCached() {
		return nil
	}
	p.cacheKey = p.api.ID + " " + p.r.URL.String()
	if response := p.gateway.cache.find(p.cacheKey); response != nil {
		return p.write(response)
	}
	return nil
}

func (p *passage) isCached() bool {
	return p.api.Cached != "" && p.api.Cached == p.path() && p.r.Method == http.MethodGet
}

// respond runs the response hooks, remembers the result if it belongs in the cache, and writes it.
func (p *passage) respond(response *http.Response) *refusal {
	if refused := p.responseHooks(response); refused != nil {
		return refused
	}
	if p.cacheKey != "" {
		p.gateway.cache.keep(p.cacheKey, response)
	}
	return p.write(response)
}

func (p *passage) write(response *http.Response) *refusal {
	maps.Copy(p.w.Header(), response.Header)
	p.w.WriteHeader(response.StatusCode) // panics on 0, as in Tyk
	_, _ = io.Copy(p.w, response.Body)
	return responded
}

// cache keeps responses as they were after the response hooks: Tyk's ResponseCacheMiddleware, which is last.
type cache struct {
	lock sync.Mutex
	kept map[string]keptResponse
}

type keptResponse struct {
	code   int
	header http.Header
	body   []byte
}

func (c *cache) keep(key string, response *http.Response) {
	body, err := io.ReadAll(response.Body)
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.kept == nil {
		c.kept = map[string]keptResponse{}
	}
	c.kept[key] = keptResponse{response.StatusCode, response.Header.Clone(), body}
}

func (c *cache) find(key string) *http.Response {
	c.lock.Lock()
	defer c.lock.Unlock()
	kept, found := c.kept[key]
	if !found {
		return nil
	}
	return &http.Response{StatusCode: kept.code, Header: kept.header.Clone(), Body: io.NopCloser(bytes.NewReader(kept.body))}
}
