package main

import (
	"fmt"
	"net/http"
	"strings"
	"text/template"
)

// refusal ends a request with Tyk's error template.
type refusal struct {
	code    int
	message string
}

const (
	jsonTemplate = "{\n    \"error\": \"%s\"\n}"
	xmlTemplate  = "<?xml version = \"1.0\" encoding = \"UTF-8\"?>\n<error>%s</error>"
)

// write answers in XML where the request's content type is XML, else in JSON.
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
