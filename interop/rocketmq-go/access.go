package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// What accounts may do, as the Go client sees it: probe NAMESRV PREFIX access prints one line an observation, its name, a
// tab and what was seen, as rocketmq/Access.java does.

var responseCode = regexp.MustCompile(`CODE: (\d+)`)

// failure is the code of the response that ended it.
func failure(err error) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if found := responseCode.FindStringSubmatch(e.Error()); found != nil {
			return "code " + found[1]
		}
	}
	return "FAILED " + err.Error()
}

func observeAccess(name string, act func() (string, error)) {
	seen, err := act()
	if err != nil {
		fmt.Fprintf(os.Stderr, "== %s: %v\n", name, err)
		seen = failure(err)
	}
	fmt.Printf("%s\t%s\n", name, seen)
}

type account struct{ name, secret string }

func (a account) credentials() primitive.Credentials {
	return primitive.Credentials{AccessKey: a.name, SecretKey: a.secret}
}

func (a account) send(topic string, messages ...*primitive.Message) (string, error) {
	options := []producer.Option{producer.WithNsResolver(resolver()), producer.WithGroupName(prefix + "producers"), producer.WithInstanceName(instance()),
		producer.WithRetry(0), producer.WithQueueSelector(byQueue{producer.NewRoundRobinQueueSelector()})}
	if a.name != "" {
		options = append(options, producer.WithCredentials(a.credentials()))
	}
	p, err := rocketmq.NewProducer(options...)
	if err != nil {
		return "", err
	}
	if err = p.Start(); err != nil {
		return "", err
	}
	defer p.Shutdown()
	seen := ""
	for _, m := range messages {
		result, err := p.SendSync(context.Background(), m)
		if err != nil {
			return "", err
		}
		seen = map[primitive.SendStatus]string{primitive.SendOK: "SEND_OK"}[result.Status]
	}
	return seen, nil
}

// consume hands messages to take until it says that this is enough, or the time is over.
func (a account) consume(topic, group string, limit time.Duration, take func(*primitive.MessageExt) consumer.ConsumeResult, enough func() bool, options ...consumer.Option) error {
	options = append([]consumer.Option{consumer.WithNsResolver(resolver()), consumer.WithGroupName(group), consumer.WithInstance(instance()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithCredentials(a.credentials())}, options...)
	c, err := rocketmq.NewPushConsumer(options...)
	if err != nil {
		return err
	}
	err = c.Subscribe(topic, every(), func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		if concurrent, ok := primitive.GetConcurrentlyCtx(ctx); ok {
			concurrent.DelayLevelWhenNextConsume = 1
		}
		result := consumer.ConsumeSuccess
		for _, m := range messages {
			if taken := take(m); taken != consumer.ConsumeSuccess {
				result = taken
			}
		}
		return result, nil
	})
	if err != nil {
		return err
	}
	if err = c.Start(); err != nil {
		return err
	}
	defer c.Shutdown()
	until(limit, enough)
	return nil
}

// first is the body of the first message that comes, or that none does.
func (a account) first(topic, group string, limit time.Duration) (string, error) {
	came := make(chan string, 1)
	err := a.consume(topic, group, limit, func(m *primitive.MessageExt) consumer.ConsumeResult {
		select {
		case came <- string(m.Body):
		default:
		}
		return consumer.ConsumeSuccess
	}, func() bool { return len(came) > 0 })
	select {
	case body := <-came:
		return body, err
	default:
		return "nothing", err
	}
}

func accesses() {
	boss, app := account{"bossaccount", "boss-secret"}, account{"appaccount", "app-secret"}
	one := func(topic, body string) *primitive.Message { return message(topic, "tag", body) }
	for _, topic := range []string{"orders", "events", "secrets"} {
		observeAccess("admin: sends to "+topic, func() (string, error) { return boss.send(topic, one(topic, "of boss")) })
		until(20*time.Second, func() bool {
			body, err := boss.first(topic, prefix+"boss", 5*time.Second)
			return err == nil && body == "of boss"
		})
	}
	observeAccess("app: sends where it may", func() (string, error) { return app.send("orders", one("orders", "of app")) })
	observeAccess("app: sends where it may only read", func() (string, error) { return app.send("events", one("events", "no")) })
	observeAccess("app: sends where it may nothing", func() (string, error) { return app.send("secrets", one("secrets", "no")) })
	observeAccess("app: consumes where it may", func() (string, error) { return app.first("events", prefix+"readers", 30*time.Second) })
	observeAccess("app: consumes where it may nothing", func() (string, error) { return app.first("secrets", prefix+"readers2", 3*time.Second) })
	observeAccess("app: consumes as a group that it may not be in", func() (string, error) { return app.first("events", "closed", 3*time.Second) })
	observeAccess("app: a message comes again when it was refused", func() (string, error) {
		var times atomic.Int32
		if _, err := app.send("orders", message("orders", "retry", "r")); err != nil {
			return "", err
		}
		err := app.consume("orders", prefix+"retry", 90*time.Second, func(m *primitive.MessageExt) consumer.ConsumeResult {
			if m.GetTags() == "retry" && times.Add(1) == 1 {
				return consumer.ConsumeRetryLater
			}
			return consumer.ConsumeSuccess
		}, func() bool { return times.Load() >= 2 })
		return map[int32]string{1: "once", 2: "twice"}[times.Load()], err
	})
	observeAccess("app: in order", func() (string, error) {
		var messages []*primitive.Message
		for i := 0; i < 5; i++ {
			m := message("orders", "order", fmt.Sprint(i))
			m.WithProperty("queue", "0")
			messages = append(messages, m)
		}
		if _, err := app.send("orders", messages...); err != nil {
			return "", err
		}
		s := &sink{}
		err := app.consume("orders", prefix+"order", 40*time.Second, func(m *primitive.MessageExt) consumer.ConsumeResult {
			if m.GetTags() == "order" {
				s.add(m)
			}
			return consumer.ConsumeSuccess
		}, func() bool { return s.count() >= 5 }, consumer.WithConsumerOrder(true))
		seen := []string{}
		for _, m := range s.drain(5) {
			seen = append(seen, string(m.Body))
		}
		return fmt.Sprint(seen), err
	})
	for who, a := range map[string]account{"a wrong secret": {"appaccount", "another-secret"}, "an unknown account": {"nobodyatall", "app-secret"}, "no account": {}} {
		observeAccess(who+": sends", func() (string, error) { return a.send("orders", one("orders", "no")) })
	}
}
