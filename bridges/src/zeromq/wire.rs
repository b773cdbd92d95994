//! ZMTP 3.0: the greeting, commands, and the frames of messages.
//!
//! A greeting has 64 bytes: FF, 8 of any kind, 7F, the version (2), the mechanism (20, filled up with 0), and 32 more. Then
//! come frames: flags (1: more follow, 2: a long length, 4: a command), the length (1 byte, or 8, big-endian), bytes.
//! A command is its name behind the name's length (1), and its own bytes. The first is READY, with properties: name behind its
//! length (1), value behind its length (4).

use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::Kind;

/// How long peers may take until both are ready.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Longest command, in bytes.
const COMMAND_MAX: u64 = 64 * 1024;
/// Frames of one message, at most.
pub(super) const FRAMES_MAX: usize = 1024;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;
const MECHANISM: &[u8; 20] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn told(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// A message's frames.
    Message(Vec<Vec<u8>>),
    /// Why a message was not taken.
    Refused(String),
    /// A command: its name and bytes.
    Command(Vec<u8>, Vec<u8>),
}

/// Greets a peer, and sees that it is of a kind that goes with this one.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, kind: Kind) -> io::Result<()> {
    let greeted = timeout(HANDSHAKE_MAX, async {
        let mut greeting = [0; 64];
        greeting[0] = 0xFF;
        greeting[9] = 0x7F;
        greeting[10] = 3;
        greeting[12..32].copy_from_slice(MECHANISM);
        stream.write_all(&greeting).await?;
        stream.read_exact(&mut greeting).await?;
        if greeting[0] != 0xFF || greeting[9] != 0x7F || greeting[10] < 3 {
            return Err(told("the peer does not speak ZMTP 3".to_owned()));
        }
        if greeting[12..32] != *MECHANISM {
            let wanted = String::from_utf8_lossy(&greeting[12..32]);
            return Err(told(format!(
                "the peer wants mechanism {}: NULL alone is spoken",
                wanted.trim_matches('\0')
            )));
        }
        let ready =
            [&b"\x05READY\x0bSocket-Type\0\0\0"[..], &[len8(kind.name().len())], kind.name().as_bytes()];
        let mut frame = Vec::new();
        push_frame(&mut frame, COMMAND, &ready.concat());
        stream.write_all(&frame).await?;
        match receive(stream, COMMAND_MAX).await? {
            Came::Command(name, properties) if name == b"READY" => {
                let peer = socket_type(&properties)
                    .ok_or_else(|| told("the peer says no socket type".to_owned()))?;
                if kind.peers().iter().any(|name| name.as_bytes() == peer) {
                    return Ok(());
                }
                let peer = String::from_utf8_lossy(peer);
                Err(told(format!("the peer is a {peer} socket, expected {}", kind.peers().join(" or "))))
            }
            Came::Command(name, reason) if name == b"ERROR" => Err(told(format!(
                "the peer says: {}",
                String::from_utf8_lossy(reason.get(1..).unwrap_or_default())
            ))),
            _ => Err(told("the peer says something else than READY".to_owned())),
        }
    });
    greeted.await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no greeting in {HANDSHAKE_MAX:?}")))
    })
}

fn len8(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

/// The socket type among the properties of READY.
fn socket_type(mut properties: &[u8]) -> Option<&[u8]> {
    loop {
        let (&len, rest) = properties.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(len))?;
        let (len, rest) = rest.split_at_checked(4)?;
        let len = u32::from_be_bytes(len.try_into().ok()?);
        let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            return Some(value);
        }
        properties = rest;
    }
}

/// Adds a frame.
pub(super) fn push_frame(out: &mut Vec<u8>, flags: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(len) => out.extend_from_slice(&[flags, len]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

/// The frames of a message.
pub(super) fn message(frames: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 9).sum());
    for (place, frame) in frames.iter().enumerate() {
        push_frame(&mut out, if place + 1 < frames.len() { MORE } else { 0 }, frame);
    }
    out
}

/// The answer to a command, if it wants one.
pub(super) fn answer(name: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    // Behind the time to live (2 bytes) is what comes back.
    let context = bytes.get(2..).filter(|context| name == b"PING" && context.len() <= 16)?;
    let mut out = Vec::new();
    push_frame(&mut out, COMMAND, &[&b"\x04PONG"[..], context].concat());
    Some(out)
}

/// Receives a message of at most `bytes_max`, or a command. What is longer is read to its end and dropped.
pub(super) async fn receive<R: AsyncRead + Unpin>(stream: &mut R, bytes_max: u64) -> io::Result<Came> {
    let (mut frames, mut bytes, mut refused) = (Vec::new(), 0_u64, None);
    loop {
        let flags = stream.read_u8().await?;
        if flags & !(MORE | LONG | COMMAND) != 0 {
            return Err(told(format!("a frame has the unknown flags {flags:#04x}")));
        }
        let len =
            if flags & LONG == 0 { u64::from(stream.read_u8().await?) } else { stream.read_u64().await? };
        if flags & COMMAND != 0 {
            if len > COMMAND_MAX || flags & MORE != 0 {
                return Err(told(format!("a command of {len} bytes, expected at most {COMMAND_MAX}")));
            }
            let bytes = read(stream, len).await?;
            let (&len, rest) =
                bytes.split_first().ok_or_else(|| told("a command without a name".to_owned()))?;
            let (name, rest) = rest
                .split_at_checked(usize::from(len))
                .ok_or_else(|| told("a command without a name".to_owned()))?;
            return Ok(Came::Command(name.to_vec(), rest.to_vec()));
        }
        bytes = bytes.saturating_add(len);
        if bytes > bytes_max {
            refused = Some(format!("a message of more than {bytes_max} bytes: raise `body_max`"));
        } else if frames.len() >= FRAMES_MAX {
            refused = Some(format!("a message of more than {FRAMES_MAX} frames"));
        }
        if refused.is_some() {
            frames.clear();
            let mut rest = Pin::new(&mut *stream).take(len);
            let skipped = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
            if skipped < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        } else {
            frames.push(read(stream, len).await?);
        }
        if flags & MORE == 0 {
            return Ok(refused.map_or(Came::Message(frames), Came::Refused));
        }
    }
}

/// So many bytes; memory is taken as they come.
async fn read<R: AsyncRead + Unpin>(stream: &mut R, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = Pin::new(stream).take(len);
    rest.read_to_end(&mut bytes).await?;
    if (bytes.len() as u64) < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_longer_than_it_may_be_is_dropped_and_the_next_is_whole() {
        let all = [message(&[b"k", &[7; 300]]), message(&[&vec![1; 2000]]), message(&[b""])].concat();
        run(async {
            let mut rest = &all[..];
            assert_eq!(
                receive(&mut rest, 400).await.unwrap(),
                Came::Message(vec![b"k".to_vec(), vec![7; 300]])
            );
            let Came::Refused(told) = receive(&mut rest, 400).await.unwrap() else { panic!() };
            assert!(told.contains("more than 400 bytes"), "{told}");
            assert_eq!(receive(&mut rest, 400).await.unwrap(), Came::Message(vec![Vec::new()]));
            assert!(receive(&mut rest, 400).await.is_err());
        });
        let many = message(&vec![&b""[..]; FRAMES_MAX + 1]);
        let came = run(receive(&mut &many[..], 10)).unwrap();
        assert!(matches!(came, Came::Refused(told) if told.contains("1024 frames")));
        let endless = [&[LONG][..], &u64::MAX.to_be_bytes(), b"few"].concat();
        assert!(run(receive(&mut &endless[..], u64::MAX)).is_err());
    }

    #[test]
    fn peers_that_do_not_go_together_are_told() {
        for (theirs, part) in
            [(Kind::Push, None), (Kind::Pub, Some("the peer is a PUB socket, expected PUSH"))]
        {
            let greeted = run(async {
                let (mut here, mut there) = tokio::io::duplex(1000);
                let theirs = tokio::spawn(async move { greet(&mut there, theirs).await });
                let greeted = greet(&mut here, Kind::Pull).await;
                drop(theirs.await.unwrap());
                greeted
            });
            match part {
                None => greeted.unwrap(),
                Some(part) => assert!(greeted.unwrap_err().to_string().contains(part)),
            }
        }
    }

    #[test]
    fn a_ping_is_answered() {
        let mut frame = Vec::new();
        push_frame(&mut frame, COMMAND, b"\x04PONGabc");
        assert_eq!(answer(b"PING", b"\0\x01abc"), Some(frame));
        assert_eq!(answer(b"PONG", b"\0\x01abc"), None);
        assert_eq!(answer(b"PING", b"\0"), None);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            run(async {
                let mut rest = &bytes[..];
                while receive(&mut rest, 50).await.is_ok() {}
            });
            let _ = socket_type(&bytes);
        }

        #[test]
        fn frames_come_back(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5)) {
            let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let came = run(receive(&mut &message(&slices)[..], 10_000)).unwrap();
            prop_assert_eq!(came, Came::Message(frames));
        }
    }
}
