//! Whatever ends a stream, it is begun again, and what was sent before has been handed on.

use std::time::Duration;

use bytes::Bytes;
use telesonde_hubble::messages::{FieldMask, GetFlowsRequest};
use telesonde_hubble::server::messages::Flow;
use telesonde_hubble::server::{Player, Setup, Step};
use telesonde_hubble::{Address, Kind, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Status};

use crate::{Client, message, options, play};

/// Lets the first call end in some way after three messages; gives what the client says of it.
async fn ended_by(step: Step) -> (Kind, String) {
    let script = move |call: u32, _: &_| {
        let sent = (0..3).map(|number| Step::Send(message(call as usize * 3 + number)));
        sent.chain([if call == 0 { step.clone() } else { Step::Stall }]).collect()
    };
    let (_player, address) = play(Setup::default(), Box::new(script));
    let client = Client::start(options(address));
    client.messages(6).await;
    let seen = client.notes.0.lock().unwrap();
    assert_eq!(seen.messages, (0..6).map(message).collect::<Vec<_>>());
    assert_eq!((seen.ends.len(), seen.connected), (1, 2), "{seen:?}");
    seen.ends[0].clone()
}

#[tokio::test]
async fn every_status_ends_a_stream_and_a_new_one_begins() {
    assert_eq!(ended_by(Step::End).await.0, Kind::Closed);
    let cases = [
        (Code::Unavailable, Kind::Unavailable),
        (Code::Internal, Kind::Unavailable),
        (Code::Unknown, Kind::Unavailable),
        (Code::ResourceExhausted, Kind::Refused),
        (Code::PermissionDenied, Kind::Denied),
        (Code::Unauthenticated, Kind::Denied),
    ];
    for (code, kind) in cases {
        let (found, why) = ended_by(Step::Fail(Status::new(code, "because"))).await;
        assert_eq!(found, kind, "{why}");
        assert!(why.contains("because"), "{why}");
    }
}

#[tokio::test]
async fn details_that_are_no_base64_do_no_harm() {
    let mut headers = http::HeaderMap::new();
    headers.insert("grpc-status-details-bin", http::HeaderValue::from_static("\"*\""));
    let metadata = tonic::metadata::MetadataMap::from_headers(headers);
    let broken = Status::with_metadata(Code::Unavailable, "because", metadata);
    // In trailers, and in the headers of an answer that has nothing else.
    let (kind, why) = ended_by(Step::Fail(broken.clone())).await;
    assert!(kind == Kind::Unavailable && why.contains("because"), "{why}");
    let (_player, address) = play(Setup::default(), Box::new(move |_, _| vec![Step::Fail(broken.clone())]));
    let (kind, why) = Client::start(options(address)).end().await;
    assert!(kind == Kind::Unavailable && why.contains("because"), "{why}");
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_stream_and_nothing_else() {
    let large = Flow { uuid: "x".repeat(5 << 20), ..Flow::default() }.response();
    let (kind, why) = ended_by(Step::Send(large)).await;
    assert_eq!(kind, Kind::TooLarge, "{why}");
    // What is long but allowed comes through.
    let long = Flow { uuid: "x".repeat(70_000), ..Flow::default() }.response();
    let sent = long.clone();
    let (_player, address) = play(Setup::default(), Box::new(move |_, _| vec![Step::Send(sent.clone()), Step::Stall]));
    let client = Client::start(options(address));
    client.messages(1).await;
    assert_eq!(client.notes.0.lock().unwrap().messages[0], long);
}

#[tokio::test]
async fn after_a_goaway_it_comes_back() {
    let setup = Setup { max_connection_age: Some(Duration::from_millis(100)), ..Setup::default() };
    let script = |_: u32, _: &_| vec![Step::Send(message(1)), Step::Wait(Duration::from_millis(300)), Step::End];
    let (_player, address) = play(setup, Box::new(script));
    let client = Client::start(options(address));
    client.until("three connections", |seen| (seen.connected >= 3 && seen.messages.len() >= 3).then_some(())).await;
}

/// Forwards a connection to a server until it is told to cut it.
async fn relay_of(server: std::net::SocketAddr) -> (std::net::SocketAddr, tokio::task::AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    (address, task.abort_handle())
}

#[tokio::test]
async fn a_reset_connection_is_dialled_anew() {
    let (_player, server) = play(Setup::default(), Box::new(|_, _| vec![Step::Send(message(1)), Step::Stall]));
    let (address, cut) = relay_of(server).await;
    let client = Client::start(options(address));
    client.messages(1).await;
    cut.abort();
    let (kind, why) = client.end().await;
    assert_eq!(kind, Kind::Unavailable, "{why}");
    client.until("it dials", |seen| seen.ends.iter().any(|(kind, _)| *kind == Kind::Connect).then_some(())).await;
}

#[tokio::test]
async fn what_is_no_hubble_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read_u8().await;
        }
    });
    let (kind, why) = Client::start(options(address)).end().await;
    assert!(matches!(kind, Kind::Unavailable | Kind::Connect), "{kind:?} {why}");
}

#[tokio::test]
async fn a_server_that_does_not_know_the_field_mask_gets_none() {
    let script = |_: u32, request: &GetFlowsRequest| match request.field_mask {
        Some(_) => vec![Step::Fail(Status::invalid_argument("unknown field in mask"))],
        None => vec![Step::Send(message(1)), Step::Stall],
    };
    let (player, address) = play(Setup::default(), Box::new(script));
    let mask = Some(FieldMask { paths: vec!["time".to_owned()] });
    let request = GetFlowsRequest { field_mask: mask.clone(), ..GetFlowsRequest::follow() };
    let client = Client::start(Options { request, ..options(address) });
    client.messages(1).await;
    let masks: Vec<_> = player.requests().into_iter().map(|request| request.field_mask).collect();
    assert_eq!(masks, [mask, None]);
}

#[tokio::test]
async fn a_socket_of_this_host_serves_as_well() {
    let path = std::env::temp_dir().join(format!("telesonde-hubble-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let _player = Player::unix(listener, Box::new(|_, _| vec![Step::Send(message(1)), Step::Stall]));
    let address: Address = format!("unix://{}", path.display()).parse().unwrap();
    let client = Client::start(Options::new(address, GetFlowsRequest::follow()));
    client.messages(1).await;
    std::fs::remove_file(&path).unwrap();
    let missing = Client::start(Options::new(Address::Unix(path), GetFlowsRequest::follow()));
    let (kind, why) = missing.end().await;
    assert!(kind == Kind::Connect && why.contains("No such file"), "{why}");
}

#[tokio::test]
async fn what_is_no_message_is_handed_on_as_it_is() {
    let bytes = Bytes::from_static(b"\xff\xff\xff");
    let sent = bytes.clone();
    let (_player, address) = play(Setup::default(), Box::new(move |_, _| vec![Step::Send(sent.clone()), Step::Stall]));
    let client = Client::start(options(address));
    client.messages(1).await;
    assert_eq!(client.notes.0.lock().unwrap().messages, [bytes]);
}
