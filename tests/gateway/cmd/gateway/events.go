package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"log"
	"net/http"
	"time"

	"tykpy.test/gateway/internal/coprocess"
)

const (
	authFailure    = "AuthFailure"
	dynamicHandler = "cp_dynamic_handler"
)

type eventMessage struct {
	Type      string
	Meta      any
	TimeStamp string
}

type keyFailure struct {
	Message            string
	OriginatingRequest string
	Path               string
	Origin             string
	Key                string
}

// authFailed fires AuthFailure: one goroutine per handler, nobody waits, errors are logged.
func (g *Gateway) authFailed(r *http.Request, api *API, key string) {
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		log.Print("event: ", err)
	}
	message := eventMessage{authFailure, keyFailure{
		Message: "Auth Failure", OriginatingRequest: base64.StdEncoding.EncodeToString(wire.Bytes()),
		Path: r.URL.Path, Origin: r.RemoteAddr, Key: key,
	}, time.Now().UTC().String()}
	for _, handler := range api.EventHandlers.Events[authFailure] {
		if handler.HandlerName == dynamicHandler {
			go g.sendEvent(api, message, handler.HandlerMeta.Name)
		}
	}
}

func (g *Gateway) sendEvent(api *API, message eventMessage, name string) {
	payload, err := json.Marshal(map[string]any{
		"message": message, "handler_name": name, "spec": map[string]string{"APIID": api.ID, "OrgID": api.OrgID},
	})
	if err == nil {
		_, err = g.client.DispatchEvent(context.Background(), &coprocess.Event{Payload: string(payload)})
	}
	if err != nil {
		log.Printf("event handler %s: %v", name, err)
	}
	g.events.add(api.ID, name, err)
}
