package main

import (
	"io"
	"net/http"
	"regexp"
	"strings"
)

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
