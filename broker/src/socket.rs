//! A client's connection, plain or in TLS, and its two halves. Never knows what a frame is.

use std::io::{self, IoSlice};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::server::TlsStream;

/// A connection.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub(crate) fn into_split(self) -> (Reader, Writer) {
        match self {
            Self::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Plain(reader), Writer::Plain(writer))
            }
            Self::Tls(stream) => {
                let (reader, writer) = tokio::io::split(*stream);
                (Reader::Tls(reader), Writer::Tls(writer))
            }
        }
    }
}

/// The side that is read.
pub(crate) enum Reader {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<TlsStream<TcpStream>>),
}

impl Reader {
    /// Waits for bytes and adds them to the buffer, in which there is room for `want` of them then; 0 at the end.
    /// An empty buffer of a plain connection holds no memory while it waits. Loses nothing when it is dropped.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut, want: usize) -> io::Result<usize> {
        match self {
            Self::Plain(half) => loop {
                half.readable().await?;
                buffer.reserve(want);
                match half.try_read_buf(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if buffer.is_empty() {
                            *buffer = BytesMut::new();
                        }
                    }
                    read => return read,
                }
            },
            Self::Tls(half) => {
                buffer.reserve(want);
                half.read_buf(buffer).await
            }
        }
    }
}

/// The side that is written.
pub(crate) enum Writer {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

impl Writer {
    /// Writes some of the slices, and says how many bytes.
    pub(crate) async fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.write_vectored(slices).await,
            Self::Tls(half) => half.write_vectored(slices).await,
        }
    }

    /// Whether what was written may wait for [`Self::flush`].
    pub(crate) fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Sees to it that what was written goes out.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(half) => half.flush().await,
        }
    }

    /// Tells a TLS client that this is the end, so that it needs not wonder whether somebody cut the rest off.
    pub(crate) async fn end(&mut self) {
        if let Self::Tls(half) = self {
            // It may be gone already.
            let _ = half.shutdown().await;
        }
    }
}
