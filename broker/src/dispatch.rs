//! Request code -> handler: the one match. A turn is what one read of a socket brought: its sends are appended
//! together, and all of its answers leave in one write.

use std::io;
use std::sync::Arc;

use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::frame::Frame;
use sluice_protocol::header::{Header, HeaderKind};

use crate::broker::Broker;
use crate::flusher::Unflushed;
use crate::name_server::NameServer;
use crate::outlet::{Outlet, Replies};
use crate::pull::{ANSWER_BYTES_MAX, Pull};
use crate::reply::Reply;
use crate::send::Sends;

/// A turn with answers of more bytes sends them before it goes on.
const TURN_BYTES_MAX: usize = 1024 * 1024;

/// What answers at a port.
pub(crate) struct Service {
    pub(crate) broker: Option<Arc<Broker>>,
    pub(crate) name_server: Option<Arc<NameServer>>,
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
}

impl<'a> Turn<'a> {
    pub(crate) fn new(service: &'a Arc<Service>, outlet: &'a Arc<Outlet>) -> Self {
        let (replies, sends) = (Replies::default(), Sends::default());
        Self { service, outlet, replies, cold: Vec::new(), sends, unflushed: None }
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
            return;
        }
        let request = Request { kind: frame.kind, header, body: frame.body };
        let answer = match self.dispatch(&request) {
            Ok(answer) => answer,
            Err(reply) => {
                let code = request.header.request_code();
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

    fn dispatch(&mut self, request: &Request<'_>) -> Result<Answer, Reply> {
        use RequestCode as C;
        let code = request.header.request_code();
        let sends = matches!(code, C::SEND_MESSAGE | C::SEND_MESSAGE_V2 | C::SEND_BATCH_MESSAGE);
        if let Some(broker) = &self.service.broker {
            if sends {
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

    /// Appends the sends so far, and answers them.
    fn append(&mut self) {
        let Some(broker) = self.service.broker.as_ref().filter(|_| !self.sends.is_empty()) else { return };
        let sends = std::mem::take(&mut self.sends);
        let mut replies = Replies::default();
        match (sends.append(broker, &mut replies), &mut self.unflushed) {
            (Some((ticket, places)), None) => {
                self.unflushed = Some(Unflushed { ticket, replies, places });
            }
            (Some((ticket, places)), Some(unflushed)) => {
                unflushed.ticket = ticket;
                unflushed.replies.extend(replies);
                unflushed.places.extend(places);
            }
            (None, _) if self.replies.is_empty() => self.replies = replies,
            (None, _) => self.replies.extend(replies),
        }
    }

    /// Appends and answers all that is left. Waits while the client leaves too many answers unread.
    pub(crate) async fn end(mut self) -> io::Result<()> {
        self.append();
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
