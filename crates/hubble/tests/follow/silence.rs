//! A quiet server, a stalled one and a dead one look alike until they are asked.

use std::time::Duration;

use telesonde_hubble::server::{Setup, Step};
use telesonde_hubble::{Kind, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Client, message, options, play};

const QUICK: Duration = Duration::from_millis(50);

fn impatient(options: Options) -> Options {
    Options { silence: QUICK, patience: QUICK * 20, ..options }
}

#[tokio::test]
async fn an_idle_node_may_be_silent_before_and_after_its_first_flow() {
    let script = |_: u32, _: &_| {
        vec![
            Step::Wait(QUICK * 10),
            Step::Send(message(1)),
            Step::Wait(QUICK * 10),
            Step::Send(message(2)),
            Step::Stall,
        ]
    };
    let (_player, address) = play(Setup::default(), Box::new(script));
    let client = Client::start(impatient(options(address)));
    client.messages(2).await;
    let seen = client.notes.0.lock().unwrap();
    assert_eq!((seen.connected, seen.ends.len()), (1, 0), "{seen:?}");
}

#[tokio::test]
async fn a_server_that_sees_flows_and_sends_none_is_left() {
    let (player, address) = play(Setup::default(), Box::new(|_, _| vec![Step::Send(message(1)), Step::Stall]));
    let client = Client::start(impatient(options(address)));
    client.messages(1).await;
    let feeding = async {
        loop {
            player.see(3);
            tokio::time::sleep(QUICK).await;
        }
    };
    tokio::select! {
        () = feeding => {}
        (kind, why) = client.end() => assert!(kind == Kind::Stalled && why.contains("sent none"), "{why}"),
    }
}

/// Forwards connections until the first has brought so many bytes back, then swallows everything and stays open.
async fn half_open(server: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        for nth in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            if nth > 0 {
                kept.push(client);
                continue;
            }
            let mut server = TcpStream::connect(server).await.unwrap();
            let both = async {
                let (mut from, mut to) = client.split();
                let (mut server_from, mut server_to) = server.split();
                let answers = async {
                    let (mut buffer, mut passed) = ([0; 1024], false);
                    while let Ok(count @ 1..) = server_from.read(&mut buffer).await {
                        to.write_all(&buffer[..count]).await.unwrap();
                        passed |= buffer[..count].windows(4).any(|part| part == b"flow");
                        if passed {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = answers => {}
                    _ = tokio::io::copy(&mut from, &mut server_to) => {}
                }
            };
            both.await;
            kept.push(client);
        }
    });
    address
}

#[tokio::test]
async fn a_half_open_connection_is_found_dead() {
    let (_player, server) = play(Setup::default(), Box::new(|_, _| vec![Step::Send(message(1)), Step::Stall]));
    let client = Client::start(impatient(options(half_open(server).await)));
    client.messages(1).await;
    let (kind, why) = client.end().await;
    assert_eq!(kind, Kind::Dead, "{why}");
    // Nobody answers the next one either: not even the handshake of HTTP/2.
    client.until("another end", |seen| (seen.ends.len() > 1).then_some(())).await;
}
