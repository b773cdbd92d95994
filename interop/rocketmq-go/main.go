// What RocketMQ's own Go client sees: probe NAMESRV PREFIX [CAPABILITY...] prints one line a capability, its name, a
// tab and what was observed, with nothing in it that changes from run to run. Topics and groups begin with PREFIX.
// probe NAMESRV PREFIX access: see access.go.
package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var (
	namesrv, prefix string
	instances       int
	mutex           sync.Mutex
	sender          rocketmq.Producer
)

type run struct {
	name, topic, group string
	seen               []string
	closers            []func()
}

func (r *run) saw(what string, value any) { r.seen = append(r.seen, fmt.Sprintf("%s=%v", what, value)) }

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func instance() string {
	mutex.Lock()
	defer mutex.Unlock()
	instances++
	return fmt.Sprintf("go%d-%d", instances, os.Getpid())
}

func resolver() primitive.NsResolver { return primitive.NewPassthroughResolver([]string{namesrv}) }

func newProducer(group string) rocketmq.Producer {
	p, err := rocketmq.NewProducer(producer.WithNsResolver(resolver()), producer.WithGroupName(group), producer.WithInstanceName(instance()),
		producer.WithSendMsgTimeout(10*time.Second), producer.WithQueueSelector(byQueue{producer.NewRoundRobinQueueSelector()}))
	check(err)
	check(p.Start())
	return p
}

// byQueue sends to the queue that the message's property names.
type byQueue struct{ producer.QueueSelector }

func (b byQueue) Select(m *primitive.Message, queues []*primitive.MessageQueue, broker string) *primitive.MessageQueue {
	for _, q := range queues {
		if m.GetProperty("queue") == fmt.Sprint(q.QueueId) {
			return q
		}
	}
	return b.QueueSelector.Select(m, queues, broker)
}

func message(topic, tag, body string) *primitive.Message {
	return primitive.NewMessage(topic, []byte(body)).WithTag(tag)
}

func fill(topic string, from, count int, tags ...string) {
	for i := from; i < from+count; i++ {
		tag := ""
		if len(tags) > 0 {
			tag = tags[i%len(tags)]
		}
		m := message(topic, tag, fmt.Sprintf("m%d", i))
		m.WithProperty("n", fmt.Sprint(i))
		m.WithProperty("even", map[bool]string{true: "yes", false: "no"}[i%2 == 0])
		m.WithProperty("queue", fmt.Sprint(i%4))
		_, err := sender.SendSync(context.Background(), m)
		check(err)
	}
	time.Sleep(300 * time.Millisecond)
}

type sink struct {
	mutex sync.Mutex
	got   []*primitive.MessageExt
	last  time.Time
}

func (s *sink) add(messages ...*primitive.MessageExt) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.got = append(s.got, messages...)
	s.last = time.Now()
}

func (s *sink) count() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.got)
}

// drain waits for this many, then a little for what should not come.
func (s *sink) drain(count int) []*primitive.MessageExt {
	until(30*time.Second, func() bool { return s.count() >= count })
	time.Sleep(400 * time.Millisecond)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	got := s.got
	s.got = nil
	return got
}

func until(limit time.Duration, condition func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if condition() {
			return true
		}
	}
	return condition()
}

func (r *run) push(group, topic string, selector consumer.MessageSelector, s *sink, options ...consumer.Option) rocketmq.PushConsumer {
	options = append([]consumer.Option{consumer.WithNsResolver(resolver()), consumer.WithGroupName(group), consumer.WithInstance(instance()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset)}, options...)
	c, err := rocketmq.NewPushConsumer(options...)
	check(err)
	check(c.Subscribe(topic, selector, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		s.add(messages...)
		return consumer.ConsumeSuccess, nil
	}))
	check(c.Start())
	r.closers = append(r.closers, func() { _ = c.Shutdown() })
	return c
}

func bodies(messages []*primitive.MessageExt) string {
	var all []string
	for _, m := range messages {
		all = append(all, string(m.Body))
	}
	sort.Slice(all, func(i, j int) bool {
		if len(all[i]) != len(all[j]) {
			return len(all[i]) < len(all[j])
		}
		return all[i] < all[j]
	})
	return strings.Join(all, ",")
}

// distinct bodies of what came after the first four.
func distinct(sinks ...*sink) (all []string) {
	found := map[string]bool{}
	for _, s := range sinks {
		s.mutex.Lock()
		for _, m := range s.got {
			if n := m.GetProperty("n"); len(n) > 1 || n > "3" {
				found[string(m.Body)] = true
			}
		}
		s.mutex.Unlock()
	}
	for body := range found {
		all = append(all, body)
	}
	sort.Strings(all)
	return
}

// offsets of each queue, in the order they came.
func offsets(messages []*primitive.MessageExt) string {
	by := map[int][]int64{}
	for _, m := range messages {
		by[m.Queue.QueueId] = append(by[m.Queue.QueueId], m.QueueOffset)
	}
	return fmt.Sprint(by)
}

func names(m *primitive.MessageExt) string {
	var all []string
	for name := range m.GetProperties() {
		all = append(all, name)
	}
	sort.Strings(all)
	return strings.Join(all, ",")
}

func every() consumer.MessageSelector { return consumer.MessageSelector{} }
func tag(of string) consumer.MessageSelector {
	return consumer.MessageSelector{Type: consumer.TAG, Expression: of}
}
func sql(of string) consumer.MessageSelector {
	return consumer.MessageSelector{Type: consumer.SQL92, Expression: of}
}

type capability struct {
	name string
	run  func(*run)
}

var capabilities = []capability{
	{"send-sync", func(r *run) {
		p := newProducer(r.group + "-p")
		defer p.Shutdown()
		by, statuses, ids, same := map[int][]int64{}, map[primitive.SendStatus]int{}, map[string]bool{}, true
		for i := 0; i < 8; i++ {
			m := message(r.topic, "t", fmt.Sprintf("m%d", i))
			result, err := p.SendSync(context.Background(), m.WithKeys([]string{"k"}))
			check(err)
			by[result.MessageQueue.QueueId] = append(by[result.MessageQueue.QueueId], result.QueueOffset)
			statuses[result.Status]++
			ids[result.OffsetMsgID] = true
			same = same && result.MsgID == m.GetProperty("UNIQ_KEY")
		}
		r.saw("statuses", statuses)
		r.saw("offsets", by)
		r.saw("offset ids", len(ids))
		r.saw("message id is the unique key", same)
	}},
	{"send-async", func(r *run) {
		fill(r.topic, 0, 4)
		p := newProducer(r.group + "-p")
		defer p.Shutdown()
		results := make(chan string, 8)
		for i := 0; i < 8; i++ {
			check(p.SendAsync(context.Background(), func(_ context.Context, result *primitive.SendResult, err error) {
				if err != nil {
					results <- "error"
				} else {
					results <- fmt.Sprint(result.Status)
				}
			}, message(r.topic, "t", fmt.Sprintf("a%d", i))))
		}
		counts := map[string]int{}
		for i := 0; i < 8; i++ {
			counts[<-results]++
		}
		r.saw("statuses", counts)
	}},
	{"send-oneway", func(r *run) {
		fill(r.topic, 0, 4)
		for i := 0; i < 4; i++ {
			check(sender.SendOneWay(context.Background(), message(r.topic, "t", fmt.Sprintf("o%d", i))))
		}
		s := &sink{}
		r.push(r.group, r.topic, every(), s)
		r.saw("read", bodies(s.drain(8)))
	}},
	{"send-batch", func(r *run) {
		fill(r.topic, 0, 4)
		var batch []*primitive.Message
		for i := 0; i < 5; i++ {
			m := message(r.topic, "t", fmt.Sprintf("b%d", i))
			m.WithProperty("n", fmt.Sprint(i))
			batch = append(batch, m)
		}
		batch[0].WithProperty("queue", "2")
		result, err := sender.SendSync(context.Background(), batch...)
		check(err)
		r.saw("status", result.Status)
		r.saw("offset ids", len(strings.Split(result.OffsetMsgID, ",")))
		s := &sink{}
		r.push(r.group, r.topic, every(), s)
		r.saw("read", bodies(s.drain(9)))
	}},
	{"body-compressed", func(r *run) {
		body := strings.Repeat("abcdefgh", 2048)
		_, err := sender.SendSync(context.Background(), message(r.topic, "t", body))
		check(err)
		time.Sleep(300 * time.Millisecond)
		s := &sink{}
		r.push(r.group, r.topic, every(), s)
		got := s.drain(1)
		r.saw("body intact", len(got) == 1 && string(got[0].Body) == body)
		r.saw("stored in less", got[0].StoreSize < 1000)
	}},
	{"properties", func(r *run) {
		m := message(r.topic, "tag-A", "body").WithKeys([]string{"key1", "key2"})
		m.WithProperty("colour", "grün")
		m.Flag = 77
		_, err := sender.SendSync(context.Background(), m)
		check(err)
		time.Sleep(300 * time.Millisecond)
		s := &sink{}
		r.push(r.group, r.topic, every(), s)
		got := s.drain(1)[0]
		r.saw("names", names(got))
		r.saw("values", got.GetTags()+" "+got.GetKeys()+" "+got.GetProperty("colour")+" "+got.GetProperty("MSG_REGION")+" "+got.GetProperty("TRACE_ON"))
		r.saw("flag", got.Flag)
		r.saw("crc", got.BodyCRC)
		r.saw("reconsumed", got.ReconsumeTimes)
	}},
	{"push-concurrent", func(r *run) {
		fill(r.topic, 0, 20)
		s := &sink{}
		r.push(r.group, r.topic, every(), s)
		r.saw("bodies", bodies(s.drain(20)))
		fill(r.topic, 20, 4)
		r.saw("later", bodies(s.drain(4)))
	}},
	{"push-broadcast", func(r *run) {
		fill(r.topic, 0, 8)
		one, two := &sink{}, &sink{}
		r.push(r.group, r.topic, every(), one, consumer.WithConsumerModel(consumer.BroadCasting))
		r.push(r.group, r.topic, every(), two, consumer.WithConsumerModel(consumer.BroadCasting))
		r.saw("a member", bodies(one.drain(8)))
		r.saw("another", bodies(two.drain(8)))
	}},
	{"filter-tag", func(r *run) {
		fill(r.topic, 0, 12, "A", "B", "C")
		s := &sink{}
		r.push(r.group, r.topic, tag("A || B"), s)
		r.saw("before", bodies(s.drain(8)))
		fill(r.topic, 12, 3, "A", "B", "C")
		r.saw("while waiting", bodies(s.drain(2)))
	}},
	{"filter-sql-push", func(r *run) {
		fill(r.topic, 0, 12)
		_, err := sender.SendSync(context.Background(), message(r.topic, "special", "s"))
		check(err)
		s := &sink{}
		r.push(r.group, r.topic, sql("n > 3 AND even = 'yes' OR TAGS IN ('special') AND missing IS NULL"), s)
		r.saw("before", bodies(s.drain(5)))
		fill(r.topic, 12, 4)
		r.saw("while waiting", bodies(s.drain(2)))
	}},
	{"rebalance", func(r *run) {
		fill(r.topic, 0, 4)
		one, two := &sink{}, &sink{}
		r.push(r.group, r.topic, every(), one)
		r.saw("alone", bodies(one.drain(4)))
		second := r.push(r.group, r.topic, every(), two)
		time.Sleep(5 * time.Second)
		fill(r.topic, 4, 8)
		// A queue that changes hands may be read again from its last commit: what counts is that all came, to each of the two.
		until(30*time.Second, func() bool { return len(distinct(one, two)) >= 8 })
		r.saw("shared", strings.Join(distinct(one, two), ","))
		r.saw("by both", len(one.drain(0)) > 0 && len(two.drain(0)) > 0)
		check(second.Shutdown())
		time.Sleep(5 * time.Second)
		fill(r.topic, 12, 8)
		until(30*time.Second, func() bool { return len(distinct(one)) >= 8 })
		r.saw("alone again", strings.Join(distinct(one), ","))
	}},
	{"offsets-resume", func(r *run) {
		fill(r.topic, 0, 12)
		s := &sink{}
		c := r.push(r.group, r.topic, every(), s)
		r.saw("first", bodies(s.drain(12)))
		time.Sleep(time.Second)
		check(c.Shutdown())
		fill(r.topic, 12, 8)
		r.push(r.group, r.topic, every(), s)
		r.saw("then", bodies(s.drain(8)))
	}},
	{"long-poll-push", func(r *run) {
		fill(r.topic, 0, 4)
		s := &sink{}
		r.push(r.group, r.topic, every(), s)
		s.drain(4)
		time.Sleep(time.Second)
		sent := time.Now()
		_, err := sender.SendSync(context.Background(), message(r.topic, "t", "late"))
		check(err)
		came := until(30*time.Second, func() bool { return s.count() > 0 })
		r.saw("woken", came && s.last.Sub(sent) < time.Second)
	}},
	{"extra-orderly", func(r *run) {
		fill(r.topic, 0, 16)
		s := &sink{}
		r.push(r.group, r.topic, every(), s, consumer.WithConsumerOrder(true))
		r.saw("offsets", offsets(s.drain(16)))
	}},
	{"admin-topics", func(r *run) {
		a, err := admin.NewAdmin(admin.WithResolver(resolver()))
		check(err)
		defer a.Close()
		fill(r.topic, 0, 4)
		list, err := a.FetchAllTopicList(context.Background())
		check(err)
		listed := false
		for _, topic := range list.TopicList {
			listed = listed || topic == r.topic
		}
		r.saw("listed", listed)
		queues, err := a.FetchPublishMessageQueues(context.Background(), r.topic)
		check(err)
		r.saw("queues", len(queues))
		check(a.DeleteTopic(context.Background(), admin.WithTopicDelete(r.topic)))
		r.saw("deleted", until(5*time.Second, func() bool {
			list, err := a.FetchAllTopicList(context.Background())
			check(err)
			for _, topic := range list.TopicList {
				if topic == r.topic {
					return false
				}
			}
			return true
		}))
	}},
}

func observe(c capability) (text string) {
	r := &run{name: c.name, topic: prefix + c.name, group: prefix + "g-" + c.name}
	defer func() {
		if problem := recover(); problem != nil {
			fmt.Fprintf(os.Stderr, "== %s: %v\n", c.name, problem)
			r.seen = append(r.seen, "FAILED")
		}
		for _, closer := range r.closers {
			closer()
		}
		text = strings.ReplaceAll(strings.Join(r.seen, "; "), prefix, "")
	}()
	c.run(r)
	return
}

func main() {
	namesrv, prefix = os.Args[1], os.Args[2]
	wanted := os.Args[3:]
	if len(wanted) == 1 && wanted[0] == "list" {
		for _, c := range capabilities {
			fmt.Println(c.name)
		}
		return
	}
	rlog.SetLogLevel("fatal")
	if len(wanted) == 1 && wanted[0] == "access" {
		accesses()
		return
	}
	sender = newProducer(prefix + "sender")
	limit := make(chan struct{}, 6)
	var results []chan string
	for _, c := range capabilities {
		chosen := len(wanted) == 0
		for _, name := range wanted {
			chosen = chosen || name == c.name
		}
		if !chosen {
			continue
		}
		result := make(chan string, 1)
		results = append(results, result)
		go func(c capability) {
			limit <- struct{}{}
			defer func() { <-limit }()
			result <- c.name + "\t" + observe(c)
		}(c)
	}
	for _, result := range results {
		select {
		case line := <-result:
			fmt.Println(line)
		case <-time.After(90 * time.Second):
			fmt.Fprintln(os.Stderr, "no end within 90 s")
		}
	}
}
