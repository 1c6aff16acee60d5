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

	xmlpath "gopkg.in/xmlpath.v2"

	"tykpy.test/gateway/internal/coprocess"
)

// Providers of an API's base identity, with Tyk's names.
const (
	customAuth = "custom_auth"
	authToken  = "auth_token"
)

// authenticate runs the API's auth hook if it has one, then looks the key up if the API wants that too or has no such
// hook, unless the API is keyless. Of two sessions, that of the base identity counts.
func (p *passage) authenticate() *refusal {
	hook := p.api.Middleware.AuthCheck
	if p.api.UseKeyless || p.api.Ignored != "" && p.path() == p.api.Ignored {
		return nil
	}
	byHook := p.api.EnablePluginAuth && !hook.Disabled
	if byHook {
		hook.Type = coprocess.HookType_CustomKeyCheck
		if refused := p.authenticateByHook(hook); refused != nil {
			return refused
		}
	}
	if p.api.UseStandardAuth || !byHook {
		if refused := p.authenticateByKey(); refused != nil {
			return refused
		}
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
			p.identify(customAuth, id, session)
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
	key := token
	if id != "" {
		key = id
	}
	return p.takeSession(sessionFromProto(object.Session), key, token)
}

// identify makes a session the request's if the API takes its identity from there.
func (p *passage) identify(provider, key string, session *Session) {
	if base := p.api.BaseIdentity; base == "" || base == provider {
		p.key, p.session = key, session
	}
}

// takeSession uses the session that an auth hook returned, and stores it; the quota is taken from the stored one.
func (p *passage) takeSession(session *Session, key, token string) *refusal {
	session.OrgID, session.KeyID = p.api.OrgID, key
	if err := session.apply(p.gateway.config.Policies); err != nil {
		log.Print(err)
		return p.forbidden(token)
	}
	if stored := p.stored(key); stored != nil {
		session.QuotaRenews = stored.QuotaRenews
		session.QuotaRemaining = stored.QuotaRemaining
	}
	p.identify(customAuth, key, session)
	if p.session != session {
		return nil
	}
	if err := p.gateway.keys.store(p.r.Context(), key, session); err != nil {
		log.Print("Redis: ", err)
		return &refusal{http.StatusInternalServerError, "There was a problem proxying the request"}
	}
	return nil
}

func (p *passage) authenticateByKey() *refusal {
	key := p.r.Header.Get("Authorization")
	if key == "" {
		return &refusal{http.StatusUnauthorized, "Authorization field missing"}
	}
	session := p.stored(key)
	if session == nil {
		p.gateway.authFailed(p.r, p.api, key)
		return &refusal{http.StatusForbidden, "Access to this API has been disallowed"}
	}
	p.identify(authToken, key, session)
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
		XPathExpression string `json:"xpath_expression"`
	} `json:"extractor_config"`
}

// extract returns what identifies the client: Tyk's ValueExtractor, RegexExtractor and XPathExtractor. The first of them
// does not read bodies: there, all clients have the same empty value.
func (e IDExtractor) extract(r *http.Request) (string, bool) {
	if e.ExtractWith == "value" && e.ExtractFrom == "body" {
		return "", true
	}
	value := e.source(r)
	switch {
	case value == "" || e.ExtractWith == "value":
		return value, value != ""
	case e.ExtractWith == "xpath":
		return e.byXPath(value)
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

func (e IDExtractor) byXPath(value string) (string, bool) {
	path, err := xmlpath.Compile(e.ExtractorConfig.XPathExpression)
	if err != nil {
		return "", false
	}
	document, err := xmlpath.Parse(strings.NewReader(value))
	if err != nil {
		return "", false
	}
	return path.String(document)
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
