package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"tykpy.test/gateway/internal/coprocess"
)

// Session is Tyk's user.SessionState as it is stored: the JSON names are Tyk's. Certificate, maximum query depth and
// limits per API are missing, because they are not exchanged with a hook.
type Session struct {
	LastCheck               int64                       `json:"last_check"`
	Allowance               float64                     `json:"allowance"`
	Rate                    float64                     `json:"rate"`
	Per                     float64                     `json:"per"`
	Expires                 int64                       `json:"expires"`
	QuotaMax                int64                       `json:"quota_max"`
	QuotaRenews             int64                       `json:"quota_renews"`
	QuotaRemaining          int64                       `json:"quota_remaining"`
	QuotaRenewalRate        int64                       `json:"quota_renewal_rate"`
	AccessRights            map[string]AccessDefinition `json:"access_rights"`
	OrgID                   string                      `json:"org_id"`
	OauthClientID           string                      `json:"oauth_client_id"`
	OauthKeys               map[string]string           `json:"oauth_keys"`
	BasicAuth               BasicAuthData               `json:"basic_auth_data"`
	JWT                     JWTData                     `json:"jwt_data"`
	HmacEnabled             bool                        `json:"hmac_enabled"`
	HmacSecret              string                      `json:"hmac_string"`
	IsInactive              bool                        `json:"is_inactive"`
	ApplyPolicyID           string                      `json:"apply_policy_id"`
	ApplyPolicies           []string                    `json:"apply_policies"`
	DataExpires             int64                       `json:"data_expires"`
	Monitor                 Monitor                     `json:"monitor"`
	EnableDetailRecording   bool                        `json:"enable_detail_recording"` // of before v3
	EnableDetailedRecording bool                        `json:"enable_detailed_recording"`
	MetaData                map[string]any              `json:"meta_data"`
	Tags                    []string                    `json:"tags"`
	Alias                   string                      `json:"alias"`
	LastUpdated             string                      `json:"last_updated"`
	IDExtractorDeadline     int64                       `json:"id_extractor_deadline"`
	SessionLifetime         int64                       `json:"session_lifetime"`
	KeyID                   string                      `json:"-"` // the name that it is stored under
	PostExpiryAction        string                      `json:"-"` // v5.14.0 keeps neither of these
	PostExpiryGracePeriod   int64                       `json:"-"`
}

// BasicAuthData is a key's password.
type BasicAuthData struct {
	Password string `json:"password"`
	Hash     string `json:"hash_type"`
}

// JWTData is the secret that a key's tokens are signed with.
type JWTData struct {
	Secret string `json:"secret"`
}

// Monitor lists the shares of a quota at which an event fires.
type Monitor struct {
	TriggerLimits []float64 `json:"trigger_limits"`
}

// AccessDefinition lists the versions and paths of an API that a key may use.
type AccessDefinition struct {
	APIName     string       `json:"api_name"`
	APIID       string       `json:"api_id"`
	Versions    []string     `json:"versions"`
	AllowedURLs []AccessSpec `json:"allowed_urls"`
}

// AccessSpec is one path and its methods.
type AccessSpec struct {
	URL     string   `json:"url"`
	Methods []string `json:"methods"`
}

func (s *Session) toProto() *coprocess.SessionState {
	rights := map[string]*coprocess.AccessDefinition{}
	for id, definition := range s.AccessRights {
		rights[id] = definition.toProto()
	}
	return &coprocess.SessionState{
		LastCheck: s.LastCheck, Allowance: s.Allowance, Rate: s.Rate, Per: s.Per, Expires: s.Expires,
		QuotaMax: s.QuotaMax, QuotaRenews: s.QuotaRenews, QuotaRemaining: s.QuotaRemaining,
		QuotaRenewalRate: s.QuotaRenewalRate, AccessRights: rights, OrgId: s.OrgID,
		OauthClientId: s.OauthClientID, OauthKeys: s.OauthKeys,
		BasicAuthData: &coprocess.BasicAuthData{Password: s.BasicAuth.Password, Hash: s.BasicAuth.Hash},
		JwtData:       &coprocess.JWTData{Secret: s.JWT.Secret},
		HmacEnabled:   s.HmacEnabled, HmacSecret: s.HmacSecret, IsInactive: s.IsInactive,
		ApplyPolicyId: s.ApplyPolicyID, ApplyPolicies: s.ApplyPolicies, DataExpires: s.DataExpires,
		Monitor:                 &coprocess.Monitor{TriggerLimits: s.Monitor.TriggerLimits},
		EnableDetailedRecording: s.EnableDetailRecording || s.EnableDetailedRecording, Metadata: s.metadataAsText(),
		Tags: s.Tags, Alias: s.Alias, LastUpdated: s.LastUpdated, IdExtractorDeadline: s.IDExtractorDeadline,
		SessionLifetime: s.SessionLifetime, KeyId: s.KeyID,
		PostExpiryAction: s.PostExpiryAction, PostExpiryGracePeriod: s.PostExpiryGracePeriod,
	}
}

// metadataAsText encodes values that are not strings as JSON.
func (s *Session) metadataAsText() map[string]string {
	texts := make(map[string]string, len(s.MetaData))
	for key, value := range s.MetaData {
		if text, isText := value.(string); isText {
			texts[key] = text
			continue
		}
		encoded, err := json.Marshal(value)
		if err == nil {
			texts[key] = string(encoded)
		}
	}
	return texts
}

func (d AccessDefinition) toProto() *coprocess.AccessDefinition {
	definition := &coprocess.AccessDefinition{ApiName: d.APIName, ApiId: d.APIID, Versions: d.Versions}
	for _, allowed := range d.AllowedURLs {
		definition.AllowedUrls = append(
			definition.AllowedUrls, &coprocess.AccessSpec{Url: allowed.URL, Methods: allowed.Methods},
		)
	}
	return definition
}

func sessionFromProto(proto *coprocess.SessionState) *Session {
	rights := map[string]AccessDefinition{}
	for id, definition := range proto.AccessRights {
		rights[id] = accessFromProto(definition)
	}
	metadata := map[string]any{}
	for key, value := range proto.Metadata {
		metadata[key] = value
	}
	return &Session{
		LastCheck: proto.LastCheck, Allowance: proto.Allowance, Rate: proto.Rate, Per: proto.Per, Expires: proto.Expires,
		QuotaMax: proto.QuotaMax, QuotaRenews: proto.QuotaRenews, QuotaRemaining: proto.QuotaRemaining,
		QuotaRenewalRate: proto.QuotaRenewalRate, AccessRights: rights, OrgID: proto.OrgId,
		OauthClientID: proto.OauthClientId, OauthKeys: maps.Clone(proto.OauthKeys),
		BasicAuth: BasicAuthData{proto.BasicAuthData.GetPassword(), proto.BasicAuthData.GetHash()},
		JWT:       JWTData{proto.JwtData.GetSecret()}, HmacEnabled: proto.HmacEnabled, HmacSecret: proto.HmacSecret,
		IsInactive: proto.IsInactive, ApplyPolicyID: proto.ApplyPolicyId, ApplyPolicies: proto.ApplyPolicies,
		DataExpires: proto.DataExpires, Monitor: Monitor{proto.Monitor.GetTriggerLimits()},
		EnableDetailedRecording: proto.EnableDetailedRecording, MetaData: metadata,
		Tags: proto.Tags, Alias: proto.Alias, LastUpdated: proto.LastUpdated,
		IDExtractorDeadline: proto.IdExtractorDeadline, SessionLifetime: proto.SessionLifetime, KeyID: proto.KeyId,
		PostExpiryAction: proto.PostExpiryAction, PostExpiryGracePeriod: proto.PostExpiryGracePeriod,
	}
}

// accessFromProto doubles the allowed URLs with empty entries, because Tyk makes a slice of that length and appends to it.
func accessFromProto(proto *coprocess.AccessDefinition) AccessDefinition {
	allowed := make([]AccessSpec, len(proto.AllowedUrls))
	for _, spec := range proto.AllowedUrls {
		allowed = append(allowed, AccessSpec{URL: spec.Url, Methods: spec.Methods})
	}
	return AccessDefinition{APIName: proto.ApiName, APIID: proto.ApiId, Versions: proto.Versions, AllowedURLs: allowed}
}

// apply applies the policies that the session names. An unknown one is an error.
func (s *Session) apply(policies map[string]Policy) error {
	names := s.ApplyPolicies
	if len(names) == 0 && s.ApplyPolicyID != "" {
		names = strings.Split(s.ApplyPolicyID, ",")
	}
	for _, name := range names {
		policy, known := policies[name]
		if !known {
			return fmt.Errorf("policy not found: %q", name)
		}
		if len(policy.AccessRights) == 0 {
			return errors.New("key has no valid policies to be applied")
		}
		s.Rate, s.Per = policy.Rate, policy.Per
		s.QuotaMax, s.QuotaRenewalRate = policy.QuotaMax, policy.QuotaRenewalRate
		s.AccessRights = maps.Clone(policy.AccessRights)
	}
	return nil
}

func (s *Session) expired() bool {
	return s.Expires > 0 && time.Now().Unix() > s.Expires
}
