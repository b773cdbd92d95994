//! Request code -> handler: the one match. A turn is what one read of a socket brought: its sends are appended
//! together, and all of its answers leave in one write.

use std::io;
use std::sync::Arc;

use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::frame::Frame;
use sluice_protocol::header::{Header, HeaderKind};
use sluice_store::{Appended, Batch};

use crate::access::Caller;
use crate::audit::{self, Entry};
use crate::broker::Broker;
use crate::flusher::Unflushed;
use crate::metrics::Tally;
use crate::name_server::NameServer;
use crate::outlet::{Outlet, Replies};
use crate::pull::{ANSWER_BYTES_MAX, Pull};
use crate::reply::Reply;
use crate::security::Security;
use crate::send::{Place, Sends};

/// A turn with answers of more bytes sends them before it goes on.
const TURN_BYTES_MAX: usize = 1024 * 1024;

/// What answers at a port.
pub(crate) struct Service {
    pub(crate) broker: Option<Arc<Broker>>,
    pub(crate) name_server: Option<Arc<NameServer>>,
    pub(crate) security: Arc<Security>,
}

impl Service {
    /// A connection ended: who came by it is gone.
    pub(crate) fn left(&self, outlet: &Arc<Outlet>) {
        if let Some(broker) = &self.broker {
            broker.groups.left(outlet);
        }
        if let Some(name_server) = &self.name_server {
            name_server.left(outlet);
        }
    }
}

/// One request.
pub(crate) struct Request<'a> {
    pub(crate) kind: HeaderKind,
    pub(crate) header: Header<'a>,
    pub(crate) body: &'a [u8],
    /// Who asks.
    pub(crate) caller: Caller,
}

/// What a handler did with a request.
pub(crate) enum Answer {
    /// The response.
    Now(Reply),
    /// It was answered already, or will be.
    Elsewhere,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Now(reply)
    }
}

/// The requests of one read.
pub(crate) struct Turn<'a> {
    service: &'a Arc<Service>,
    pub(crate) outlet: &'a Arc<Outlet>,
    pub(crate) replies: Replies,
    /// Pulls that are answered by a thread that may wait for the disk.
    pub(crate) cold: Vec<Pull>,
    sends: Sends,
    unflushed: Option<Unflushed>,
    tally: &'a mut Tally,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(service: &'a Arc<Service>, outlet: &'a Arc<Outlet>, tally: &'a mut Tally) -> Self {
        let (replies, sends) = (Replies::default(), Sends::default());
        Self { service, outlet, replies, cold: Vec::new(), sends, unflushed: None, tally }
    }

    /// Whether it is to be ended before more is handled.
    pub(crate) fn is_full(&self) -> bool {
        let unflushed = self.unflushed.as_ref().map_or(0, |unflushed| unflushed.replies.bytes());
        self.replies.bytes() + unflushed > TURN_BYTES_MAX
    }

    /// Handles one frame.
    pub(crate) fn handle(&mut self, frame: &Frame<'_>) {
        let header = match frame.header() {
            Ok(header) => header,
            Err(error) => {
                // Without its number nobody could tell what an answer is for.
                tracing::warn!(peer = %self.outlet.peer, %error, "a header can not be read");
                return;
            }
        };
        if header.is_response() {
            return self.outlet.answered(&header, frame.body);
        }
        let mut request = Request { kind: frame.kind, header, body: frame.body, caller: Caller::Trusted };
        let code = request.header.request_code();
        let permitted = self.service.security.permit(&request, self.outlet.peer);
        let answer = permitted.and_then(|caller| {
            request.caller = caller;
            let answer = self.dispatch(&request);
            if audit::is_change(code) {
                self.audit(&request, answer.as_ref());
            }
            answer
        });
        let answer = match answer {
            Ok(answer) => {
                // A send is counted when it is stored.
                if !is_send(code) {
                    self.tally.add(code, ResponseCode::SUCCESS);
                }
                answer
            }
            Err(reply) => {
                self.tally.add(code, reply.code);
                tracing::debug!(peer = %self.outlet.peer, request = %code, response = %reply.code, remark = ?reply.remark, "refused");
                Answer::Now(reply)
            }
        };
        if let Answer::Now(reply) = answer
            && !request.header.is_one_way()
        {
            self.replies.push(request.kind, &reply.header(request.header.opaque), &reply.body);
        }
    }

    /// Keeps what an administrator changed, or could not change.
    fn audit(&self, request: &Request<'_>, answer: Result<&Answer, &Reply>) {
        // What nobody here can do changed nothing.
        let refused = answer.err();
        if refused.is_some_and(|reply| reply.code == ResponseCode::REQUEST_CODE_NOT_SUPPORTED) {
            return;
        }
        let entry = Entry::of_change(request, &request.caller, self.outlet.peer, refused);
        self.service.security.audit(&entry);
    }

    fn dispatch(&mut self, request: &Request<'_>) -> Result<Answer, Reply> {
        let code = request.header.request_code();
        if let Some(broker) = &self.service.broker {
            if is_reply(code) {
                broker.push_reply(request, self)?;
            }
            if is_send(code) {
                return self.sends.add(broker, self.outlet, request).map(|()| Answer::Elsewhere);
            }
            // What follows sees what came before it.
            self.append();
            if let Some(answer) = broker.handle(request, self)? {
                return Ok(answer);
            }
        }
        if let Some(name_server) = &self.service.name_server
            && let Some(reply) = name_server.handle(request, self.outlet)?
        {
            return Ok(reply.into());
        }
        let remark = format!("request code {code} is not supported here");
        Err(Reply::refuse(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, remark))
    }

    /// Appends messages on behalf of a request, which is answered with success once they are durable.
    pub(crate) fn store(
        &mut self,
        broker: &Broker,
        request: &Request<'_>,
        batch: Batch,
        places: Vec<Place>,
    ) -> Result<(Answer, Appended), Reply> {
        let (appended, ticket) = broker.store.append_ahead(batch)?;
        if !broker.sync {
            broker.long_poll.arrived_at(&places);
            return Ok((Reply::ok().into(), appended));
        }
        let mut replies = Replies::default();
        if !request.header.is_one_way() {
            replies.push(request.kind, &Reply::ok().header(request.header.opaque), &[]);
        }
        self.wait(Unflushed { ticket, replies, places });
        Ok((Answer::Elsewhere, appended))
    }

    /// Appends the sends so far, and answers them.
    fn append(&mut self) {
        let Some(broker) = self.service.broker.as_ref().filter(|_| !self.sends.is_empty()) else { return };
        let sends = std::mem::take(&mut self.sends);
        let mut replies = Replies::default();
        match sends.append(broker, &mut replies, self.tally) {
            Some((ticket, places)) => self.wait(Unflushed { ticket, replies, places }),
            None if self.replies.is_empty() => self.replies = replies,
            None => self.replies.extend(replies),
        }
    }

    /// Keeps answers until the turn ends, which hands them to who waits for the disk.
    fn wait(&mut self, more: Unflushed) {
        match &mut self.unflushed {
            None => self.unflushed = Some(more),
            Some(unflushed) => {
                unflushed.ticket = more.ticket;
                unflushed.replies.extend(more.replies);
                unflushed.places.extend(more.places);
            }
        }
    }

    /// Appends and answers all that is left. Waits while the client leaves too many answers unread.
    pub(crate) async fn end(mut self) -> io::Result<()> {
        self.append();
        self.tally.flush();
        let Self { service, outlet, replies, cold, unflushed, .. } = self;
        if let Some(broker) = &service.broker {
            if let Some(unflushed) = unflushed {
                // They go out when they are durable; what is read meanwhile need not wait for them.
                let room = outlet.room(unflushed.replies.bytes()).await.ok();
                broker.flusher.when_durable(unflushed, Arc::clone(outlet), room);
            }
            for pull in cold {
                let room = outlet.room(ANSWER_BYTES_MAX).await?;
                broker.answer_cold(pull, Arc::clone(outlet), room);
            }
        }
        outlet.send(replies).await
    }
}

pub(crate) fn is_reply(code: RequestCode) -> bool {
    matches!(code, RequestCode::SEND_REPLY_MESSAGE | RequestCode::SEND_REPLY_MESSAGE_V2)
}

/// Whether messages of it are appended with those of the other requests of a read.
fn is_send(code: RequestCode) -> bool {
    use RequestCode as C;
    is_reply(code) || matches!(code, C::SEND_MESSAGE | C::SEND_MESSAGE_V2 | C::SEND_BATCH_MESSAGE)
}
