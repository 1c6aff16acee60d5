package main

import (
	"crypto/md5"
	"fmt"
	"io"
	"log"
	"net/http"
	"regexp"
	"strings"
	"time"

	"tykpy.test/gateway/internal/coprocess"
)

// authenticate runs the API's auth hook if it has one, else looks the key up, unless the API is keyless.
func (p *passage) authenticate() *refusal {
	hook := p.api.Middleware.AuthCheck
	var refused *refusal
	switch {
	case p.api.UseKeyless, p.api.Ignored != "" && p.path() == p.api.Ignored:
		return nil
	case p.api.EnablePluginAuth && !hook.Disabled:
		hook.Type = coprocess.HookType_CustomKeyCheck
		refused = p.authenticateByHook(hook)
	default:
		refused = p.authenticateByKey()
	}
	if refused != nil {
		return refused
	}
	return p.checkKey()
}

func (p *passage) authenticateByHook(hook Hook) *refusal {
	id, refused := p.extractedID()
	if refused != nil {
		return refused
	}
	if id != "" {
		session := p.stored(id)
		if session != nil && session.IDExtractorDeadline > time.Now().Unix() {
			p.key, p.session = id, session
			return nil
		}
	}
	object, refused := p.call(hook)
	if refused != nil {
		return refused
	}
	token := object.Session.GetMetadata()["token"]
	if object.Session == nil || token == "" {
		return p.forbidden(p.r.Header.Get("Authorization"))
	}
	p.key = token
	if id != "" {
		p.key = id
	}
	return p.takeSession(sessionFromProto(object.Session), token)
}

// takeSession stores the session that an auth hook returned; the quota is taken from the stored one.
func (p *passage) takeSession(session *Session, token string) *refusal {
	session.OrgID, session.KeyID = p.api.OrgID, p.key
	if err := session.apply(p.gateway.config.Policies); err != nil {
		log.Print(err)
		return p.forbidden(token)
	}
	if stored := p.stored(p.key); stored != nil {
		session.QuotaRenews = stored.QuotaRenews
		session.QuotaRemaining = stored.QuotaRemaining
	}
	p.session = session
	return nil
}

func (p *passage) authenticateByKey() *refusal {
	p.key = p.r.Header.Get("Authorization")
	if p.key == "" {
		return &refusal{http.StatusUnauthorized, "Authorization field missing"}
	}
	p.session = p.stored(p.key)
	if p.session == nil {
		p.gateway.authFailed(p.r, p.api, p.key)
		return &refusal{http.StatusForbidden, "Access to this API has been disallowed"}
	}
	return nil
}

func (p *passage) checkKey() *refusal {
	if p.session.IsInactive {
		return &refusal{http.StatusForbidden, "Key is inactive, please renew"}
	}
	if p.session.expired() {
		return &refusal{http.StatusUnauthorized, "Key has expired, please renew"}
	}
	return nil
}

// extractedID returns the key under which the id extractor finds a session without calling the hook; "" without one.
func (p *passage) extractedID() (string, *refusal) {
	extractor := p.api.Middleware.IDExtractor
	if extractor.Disabled || extractor.ExtractWith == "" {
		return "", nil
	}
	value, found := extractor.extract(p.r)
	if !found {
		return "", &refusal{http.StatusBadRequest, "Authorization field missing"}
	}
	return fmt.Sprintf("%s%x", p.api.OrgID, md5.Sum([]byte(value))), nil
}

func (p *passage) stored(key string) *Session {
	session, err := p.gateway.keys.session(p.r.Context(), key)
	if err != nil {
		log.Print("Redis: ", err)
	}
	return session
}

func (p *passage) forbidden(key string) *refusal {
	p.gateway.authFailed(p.r, p.api, key)
	return &refusal{http.StatusForbidden, http.StatusText(http.StatusForbidden)}
}

// IDExtractor is the gateway's own shortcut past an auth hook.
type IDExtractor struct {
	Disabled        bool   `json:"disabled"`
	ExtractFrom     string `json:"extract_from"`
	ExtractWith     string `json:"extract_with"`
	ExtractorConfig struct {
		HeaderName      string `json:"header_name"`
		FormParamName   string `json:"param_name"`
		RegexExpression string `json:"regex_expression"`
		RegexMatchIndex int    `json:"regex_match_index"`
	} `json:"extractor_config"`
}

// extract returns what identifies the client: Tyk's ValueExtractor and RegexExtractor.
func (e IDExtractor) extract(r *http.Request) (string, bool) {
	value := e.source(r)
	if value == "" || e.ExtractWith == "value" {
		return value, value != ""
	}
	expression, err := regexp.Compile(e.ExtractorConfig.RegexExpression)
	if err != nil {
		return "", false
	}
	matches := expression.FindAllString(value, -1)
	if e.ExtractorConfig.RegexMatchIndex >= len(matches) {
		return "", false
	}
	return matches[e.ExtractorConfig.RegexMatchIndex], true
}

func (e IDExtractor) source(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	setBody(r, body)
	if err != nil {
		return ""
	}
	switch e.ExtractFrom {
	case "header":
		return r.Header.Get(e.ExtractorConfig.HeaderName)
	case "form":
		_ = r.ParseForm()
		setBody(r, body)
		return strings.Join(r.Form[e.ExtractorConfig.FormParamName], "")
	case "body":
		return string(body)
	}
	return ""
}
