package main

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"tykpy.test/gateway/internal/coprocess"
)

// unknownFieldNumber is far above what Tyk's messages use today.
const unknownFieldNumber = 4000

// unknownProbe adds a field that no present version knows to the messages of an object, as a newer gateway would.
type unknownProbe struct {
	field []byte
	names map[protoreflect.FullName]bool
}

func addUnknownFields(object *coprocess.Object) *unknownProbe {
	field := protowire.AppendTag(nil, unknownFieldNumber, protowire.BytesType)
	probe := &unknownProbe{protowire.AppendString(field, "from a newer gateway"), map[protoreflect.FullName]bool{}}
	for _, message := range messages(object) {
		message.SetUnknown(probe.field)
		probe.names[message.Descriptor().FullName()] = true
	}
	return probe
}

// check finds out whether every message that was sent with the field came back with it.
func (p *unknownProbe) check(object *coprocess.Object) error {
	for _, message := range messages(object) {
		if bytes.Equal(message.GetUnknown(), p.field) {
			delete(p.names, message.Descriptor().FullName())
		}
	}
	if len(p.names) > 0 {
		return fmt.Errorf("the unknown fields of these messages are gone: %v", p.names)
	}
	return nil
}

func messages(object *coprocess.Object) []protoreflect.Message {
	all := []protoreflect.Message{object.ProtoReflect()}
	if object.Request != nil {
		all = append(all, object.Request.ProtoReflect())
	}
	if object.Session != nil {
		all = append(all, object.Session.ProtoReflect())
	}
	if object.Response != nil {
		all = append(all, object.Response.ProtoReflect())
	}
	return all
}
