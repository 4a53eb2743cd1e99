//! Who reads the relay: the one that is elected, for as long as it is.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hubble::server::messages::Flow;
use hubble::server::{Player, Script, Setup, Step};
use model::Standing;
use model::standing::{Note, Party};
use runtime::{Elections, State};
use serde_json::json;
use tokio::sync::watch;

use super::world::{Readings, World, play, runtime};

/// An election whose outcome the test says.
struct Said(watch::Receiver<Standing>, Stood);

/// With whom somebody stood, and what it notes.
type Stood = Arc<Mutex<Option<(Party, Note)>>>;

impl Elections for Said {
    fn stand(&self, name: &str, party: Party, note: Note) -> watch::Receiver<Standing> {
        assert_eq!(name, "telesonde-hubble");
        *self.1.lock().unwrap() = Some((party, note));
        self.0.clone()
    }
}

fn received(readings: &Readings) -> u64 {
    readings["telesonde_hubble_flows_received{}"] as u64
}

#[test]
fn only_who_leads_reads_the_relay() {
    let servers = runtime();
    // Each stream brings another amount.
    let script: Script = Box::new(|call, _| {
        let flow = Flow { verdict: 1, node_name: "node-a".to_owned(), ..Flow::default() }.response();
        vec![Step::Send(flow); 10_usize.pow(call + 1)].into_iter().chain([Step::Stall]).collect()
    });
    let (player, address) = play(&servers, Setup::default(), script);
    let noted = Stood::default();
    let (say, said) = watch::channel(Standing::Pending);
    let keys = json!({"mode": "relay", "hubble_address": address.to_string()});
    let world = World::start_with(&address.to_string(), &keys, Some(Arc::new(Said(said, Arc::clone(&noted)))));
    let note = || noted.lock().unwrap().as_ref().unwrap().1();
    let missed = |readings: &Readings| readings["telesonde_hubble_flows_missed{}"] as u64;
    let leader = "telesonde_hubble_leader{}";
    let unread = "telesonde_hubble_unread_seconds{}";

    world.until("nobody is elected", |readings| (readings.get(leader) == Some(&0.0)).then_some(()));
    world.until("it says so", |_| {
        matches!(world.state(), State::Degraded(why) if why.contains("elected")).then_some(())
    });

    say.send_replace(Standing::Leads { vacant: Duration::from_secs(7), note: String::new() });
    let readings =
        world.until("what the leader reads", |readings| (received(readings) >= 10).then(|| readings.clone()));
    assert!(readings.get(leader) == Some(&1.0) && readings.get("telesonde_hubble_connected{}") == Some(&1.0));
    assert!(readings[unread] >= 7.0, "{}", readings[unread]);
    assert_eq!((missed(&readings), note().as_str()), (0, "10/"));
    let counted: Vec<_> = readings.iter().filter(|(name, _)| name.starts_with("hubble_flows_total")).collect();
    assert!(
        counted.len() == 1 && counted[0].0.contains("k8s.node.name=node-a") && *counted[0].1 as u64 == 10,
        "{counted:?}"
    );

    say.send_replace(Standing::Waits);
    world.until("another leads", |readings| (readings.get(leader) == Some(&0.0)).then_some(()));
    world.until("all is well", |_| matches!(world.state(), State::Running).then_some(()));
    assert!(!world.readings().contains_key("telesonde_hubble_connected{}"));

    say.send_replace(Standing::Unknown("the right to use leases is missing".to_owned()));
    world.until("nobody can say", |_| {
        matches!(world.state(), State::Degraded(why) if why.contains("the right to use leases")).then_some(())
    });
    assert_eq!(player.requests().len(), 1);

    // Whoever led meanwhile had read 13 flows; the server has seen 15 since the first 10.
    player.see(15);
    say.send_replace(Standing::Leads { vacant: Duration::ZERO, note: "23/".to_owned() });
    let readings = world
        .until("what it reads when it leads again", |readings| (received(readings) == 110).then(|| readings.clone()));
    assert_eq!((missed(&readings), note().as_str()), (2, "125/"));
    assert_eq!(player.requests().len(), 2);
}

/// Of agents that decide for themselves some find a server of their own node: they read while nobody reads the relay.
#[test]
fn who_decides_for_itself_reads_its_node_or_the_relay_and_never_what_others_read() {
    let servers = runtime();
    let script = || -> Script {
        let flow = Flow { verdict: 1, ..Flow::default() }.response();
        Box::new(move |_, _| vec![Step::Send(flow.clone()); 10].into_iter().chain([Step::Stall]).collect())
    };
    let (node, address) = play(&servers, Setup::default(), script());
    let start = |own: &str, relay: &str| {
        let stood = Stood::default();
        let (say, said) = watch::channel(Standing::Waits);
        let keys = json!({"mode": "auto", "hubble_node_address": own, "hubble_address": relay});
        (World::start_with(own, &keys, Some(Arc::new(Said(said, Arc::clone(&stood))))), say, stood)
    };
    let party = |stood: &Stood| stood.lock().unwrap().as_ref().map(|(party, _)| *party);

    // Its own server answers: it stands with the others, and waits while somebody reads the relay.
    let (world, say, stood) = start(&address.to_string(), "127.0.0.1:1");
    world.until("it waits", |_| matches!(world.state(), State::Running).then_some(()));
    assert!(party(&stood) == Some(Party::Many) && node.requests().is_empty());
    // While nobody can say, whoever reads the relay may go on: so it waits on, and says so.
    say.send_replace(Standing::Unknown("the API server is away".to_owned()));
    world.until("it says that it waits", |_| {
        matches!(world.state(), State::Degraded(why) if why.contains("may do so still: the API server")).then_some(())
    });
    say.send_replace(Standing::Unknown("the API server is away still".to_owned()));
    world.until("it goes on to wait", |_| {
        matches!(world.state(), State::Degraded(why) if why.contains("away still")).then_some(())
    });
    assert!(node.requests().is_empty(), "it reads what the relay's reader may read, too");
    say.send_replace(Standing::Leads { vacant: Duration::from_secs(7), note: String::new() });
    let readings = world.settled(10);
    assert!(!readings.contains_key("telesonde_hubble_leader{}"));
    assert!(readings["telesonde_hubble_unread_seconds{}"] >= 7.0, "{readings:?}");
    // Nobody can say: its own node nobody else reads.
    say.send_replace(Standing::Unknown("the API server is away".to_owned()));
    world.until("it goes on", |readings| (readings["telesonde_hubble_connected{}"] > 0.5).then_some(()));
    assert_eq!(node.requests().len(), 1);
    drop(world);

    // Its own server does not answer: it reads the relay, until the server does.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = free.local_addr().unwrap().to_string();
    drop(free);
    let (relay, address) = play(&servers, Setup::default(), script());
    let (world, say, stood) = start(&own, &address.to_string());
    assert_eq!(party(&stood), Some(Party::One));
    say.send_replace(Standing::Barred);
    world.until("it says so", |_| {
        matches!(world.state(), State::Degraded(why) if why.contains("read their own nodes")).then_some(())
    });
    assert!(relay.requests().is_empty());
    say.send_replace(Standing::Leads { vacant: Duration::ZERO, note: String::new() });
    world.settled(10);
    let listener = TcpListener::bind(&own).unwrap();
    let late = {
        let _inside = servers.enter();
        Player::tcp(listener, Setup::default(), script())
    };
    // The relay is left first; who reads its own node then stands anew.
    world.until("it stands with the others", |_| (party(&stood) == Some(Party::Many)).then_some(()));
    world.until("it reads its own node", |_| (late.requests().len() == 1).then_some(()));
    world.settled(10);
    assert_eq!(relay.requests().len(), 1);
}
