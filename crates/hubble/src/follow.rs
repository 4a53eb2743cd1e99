//! The stream of flows, for as long as anybody wants it: whatever ends it, it is begun again after a while.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};

use crate::address::Address;
use crate::dial::{Line, dial};
use crate::failure::{Failure, Kind};
use crate::messages::{GET_FLOWS, GetFlowsRequest, SERVER_STATUS, ServerStatus};
use crate::tls::Tls;

/// What is followed, and how patiently.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub address: Address,
    /// How the connection is secured; sockets of this host never are.
    pub tls: Option<Tls>,
    /// What is asked for.
    pub request: GetFlowsRequest,
    /// The most bytes of one message.
    pub message_limit: usize,
    /// How long a stream may be silent before the server is asked how it is.
    pub silence: Duration,
    /// How long a connection or an answer may take.
    pub patience: Duration,
    /// The first and the longest pause before another attempt; each is twice the one before, more or less.
    pub pauses: (Duration, Duration),
}

impl Options {
    /// Gives what is right for a server somewhere in the cluster.
    pub fn new(address: Address, request: GetFlowsRequest) -> Self {
        Self {
            address,
            tls: None,
            request,
            message_limit: 4 << 20,
            silence: Duration::from_secs(30),
            patience: Duration::from_secs(5),
            pauses: (Duration::from_millis(250), Duration::from_secs(30)),
        }
    }
}

/// Who gets what comes. Nothing here may wait.
pub trait Sink: Send {
    /// Takes a message as it came: an encoded `GetFlowsResponse`.
    fn message(&mut self, message: Bytes);

    /// Takes note that the server has answered and flows may come.
    fn connected(&mut self, status: &ServerStatus);

    /// Takes note that no flows come until [`Sink::connected`] is called again.
    fn ended(&mut self, failure: &Failure);
}

/// Follows a server for ever.
pub async fn follow(mut options: Options, sink: &mut impl Sink) {
    let (first, last) = options.pauses;
    let random = RandomState::new();
    let mut pause = first;
    for attempt in 0_u64.. {
        let begun = Instant::now();
        let failure = attend(&options, sink).await;
        if failure.misunderstood && options.request.field_mask.take().is_some() {
            tracing::info!("{} does not know the field mask ({failure}): flows come whole", options.address);
        }
        sink.ended(&failure);
        if begun.elapsed() > last {
            pause = first;
        }
        // Between a half and three halves, so that not all agents come back at once.
        let spread = (random.hash_one(attempt) >> 11) as f64 / (1_u64 << 53) as f64;
        tokio::time::sleep(pause.mul_f64(0.5 + spread)).await;
        pause = (pause * 2).min(last);
    }
}

/// Asks a server how it is, over a connection of its own.
///
/// # Errors
/// Fails when it cannot be reached or does not answer.
pub async fn status(address: &Address, tls: Option<&Tls>, patience: Duration) -> Result<ServerStatus, Failure> {
    let channel = dial(address, tls, patience).await?;
    ask(&channel, patience).await
}

/// Attends one stream to its end.
async fn attend(options: &Options, sink: &mut impl Sink) -> Failure {
    let channel = match dial(&options.address, options.tls.as_ref(), options.patience).await {
        Ok(channel) => channel,
        Err(failure) => return failure,
    };
    // GetFlows on an idle node answers nothing at all until there is a flow: this tells whether anybody is there.
    let status = match ask(&channel, options.patience).await {
        Ok(status) => status,
        Err(failure) => return failure,
    };
    sink.connected(&status);
    let mut watch = Watch { channel: &channel, options, seen: status.seen_flows, quiet: false };
    let begun = Instant::now();
    let opened = watch.during(open(channel.clone(), options)).await;
    let mut stream = match opened {
        Ok(Ok(stream)) => stream,
        Ok(Err(status)) => return status.into(),
        Err(failure) => return failure,
    };
    tracing::debug!("{}: the stream began after {:?}", options.address, begun.elapsed());
    loop {
        match watch.during(stream.message()).await {
            Ok(Ok(Some(message))) => {
                watch.quiet = false;
                sink.message(message);
            }
            Ok(Ok(None)) => return Failure::new(Kind::Closed, "the server ended the stream"),
            Ok(Err(status)) => return status.into(),
            Err(failure) => return failure,
        }
    }
}

async fn open(channel: Line, options: &Options) -> Result<Streaming<Bytes>, Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(options.message_limit);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = Request::new(Bytes::from(options.request.encode_to_vec()));
    let response = client.server_streaming(request, PathAndQuery::from_static(GET_FLOWS), Raw).await?;
    Ok(response.into_inner())
}

async fn ask(channel: &Line, patience: Duration) -> Result<ServerStatus, Failure> {
    let call = async {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(SERVER_STATUS);
        client.unary(Request::new(Bytes::new()), path, Raw).await
    };
    let dead = |_| Failure::new(Kind::Dead, format!("ServerStatus has no answer within {patience:?}"));
    let answer = timeout(patience, call).await.map_err(dead)??.into_inner();
    ServerStatus::decode(answer)
        .map_err(|error| Failure::new(Kind::Refused, format!("ServerStatus: {error}; is this Hubble?")))
}

/// Tells a silent stream from a dead one.
struct Watch<'a> {
    channel: &'a Line,
    options: &'a Options,
    /// How many flows the server had seen when it was last asked.
    seen: u64,
    /// Whether no message has come since.
    quiet: bool,
}

impl Watch<'_> {
    /// Waits for something, for as long as the server answers that it is well.
    async fn during<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Failure> {
        let mut what = std::pin::pin!(what);
        loop {
            if let Ok(done) = timeout(self.options.silence, &mut what).await {
                return Ok(done);
            }
            let Options { patience, request, address, .. } = self.options;
            let status = ask(self.channel, *patience).await?;
            let missed = status.seen_flows.saturating_sub(self.seen);
            self.seen = status.seen_flows;
            // Where filters leave flows out, silence means nothing.
            let all = request.whitelist.is_empty() && request.blacklist.is_empty();
            if !std::mem::replace(&mut self.quiet, true) || !all || missed == 0 {
                continue;
            }
            // What it saw last may be on its way.
            if let Ok(done) = timeout(*patience, &mut what).await {
                return Ok(done);
            }
            return Err(Failure::new(Kind::Stalled, format!("{address} saw {missed} flows and sent none of them")));
        }
    }
}

/// Hands messages on as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(64 * 1024, 64 * 1024)
    }
}
