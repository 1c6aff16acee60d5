package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	sessionPrefix = "apikey-"
	quotaPrefix   = "quota-"
	ratePrefix    = "rate-limit-"
)

// keyStore stores sessions, quotas and rates in Redis.
type keyStore struct {
	client *redis.Client
}

func openKeyStore(socket string) *keyStore {
	return &keyStore{redis.NewClient(&redis.Options{Network: "unix", Addr: socket, Protocol: 2})}
}

// session returns the session of a key, or nil.
func (k *keyStore) session(ctx context.Context, key string) (*Session, error) {
	text, err := k.client.Get(ctx, sessionPrefix+key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	session := &Session{KeyID: key}
	return session, json.Unmarshal(text, session)
}

func (k *keyStore) store(ctx context.Context, key string, session *Session) error {
	text, err := json.Marshal(session)
	if err != nil {
		return err
	}
	lifetime := time.Duration(session.SessionLifetime) * time.Second
	return k.client.Set(ctx, sessionPrefix+key, text, lifetime).Err()
}

// allow counts a request of the key, and returns why it is refused, or "".
func (k *keyStore) allow(ctx context.Context, key string, session *Session) (string, int, error) {
	if session.Rate > 0 {
		count, err := k.count(ctx, ratePrefix+key, int64(session.Per))
		if err != nil || float64(count) > session.Rate {
			return "Rate limit exceeded", 429, err
		}
	}
	if session.QuotaMax <= 0 {
		return "", 0, nil
	}
	count, err := k.count(ctx, quotaPrefix+key, session.QuotaRenewalRate)
	if err != nil {
		return "", 0, err
	}
	if count == 1 {
		session.QuotaRenews = time.Now().Unix() + session.QuotaRenewalRate
	}
	session.QuotaRemaining = max(session.QuotaMax-count, 0)
	if count > session.QuotaMax {
		return "Quota exceeded", 403, nil
	}
	return "", 0, nil
}

func (k *keyStore) count(ctx context.Context, name string, seconds int64) (int64, error) {
	count, err := k.client.Incr(ctx, name).Result()
	if err == nil && count == 1 && seconds > 0 {
		err = k.client.Expire(ctx, name, time.Duration(seconds)*time.Second).Err()
	}
	return count, err
}
