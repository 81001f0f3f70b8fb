use super::*;

use std::io::{Read, Write};
use std::thread;
use std::time::Instant;

use crate::network::{Impairment, Link, Switch};
use crate::virtual_time::VirtualTime;

const SERVER: [u8; 4] = [10, 0, 0, 1];
const CLIENT: [u8; 4] = [10, 0, 0, 2];

/// Two hosts on a switch, with `impairment` on the frames to each host.
fn pair(impairment: &Impairment) -> (Host, Host) {
    let switch = Switch::new();
    let host = |address: [u8; 4]| Host::new(switch.port_with(impairment.clone()).unwrap(), address).unwrap();
    (host(SERVER), host(CLIENT))
}

/// Sends `len` bytes from the client to the server and back.
fn echo(server: &Host, client: &Host, len: usize) {
    let sent: Vec<u8> = (0..len).map(|index| (index * 7 / 3) as u8).collect();
    let listener = server.listen(7).unwrap();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = listener.accept().unwrap();
            assert_eq!(stream.peer().ip().octets(), CLIENT);
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
            stream.flush().unwrap();
        });
        let mut stream = client.connect(SERVER, 7).unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown_write().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "{} of {len}", received.len());
}

#[test]
fn streams_carry_what_is_written() {
    let (server, client) = pair(&Impairment::new());
    for len in [0, 1, 100_000, 1_000_000] {
        echo(&server, &client, len);
    }
}

#[test]
fn streams_survive_a_bad_network() {
    let impairment = Impairment::new().loss(0.1).duplication(0.05).reordering(0.1).seed(1);
    let (server, client) = pair(&impairment);
    echo(&server, &client, 8_000);
}

#[test]
fn pings_are_answered() {
    const DELAY: Duration = Duration::from_millis(3);
    let (server, client) = pair(&Impairment::new().delay(DELAY));
    assert!(client.ping(SERVER).unwrap() >= 2 * DELAY);
    assert!(server.ping(CLIENT).unwrap() >= 2 * DELAY);
    let nobody = client.ping_timeout([10, 0, 0, 3], Duration::from_millis(50)).unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::TimedOut);
    assert!(nobody.to_string().contains("no echo reply from 10.0.0.3"), "{nobody}");
}

#[test]
fn errors_have_the_matching_kind() {
    let switch = Switch::new();
    let host = |address: [u8; 4]| {
        Host::builder(address).timeout(Duration::from_millis(50)).start(switch.port().unwrap()).unwrap()
    };
    let (server, client) = (host(SERVER), host(CLIENT));
    let refused = client.connect(SERVER, 9).unwrap_err();
    assert_eq!(refused.to_string(), "connection refused by 10.0.0.1:9");
    assert_eq!(client.connect([10, 0, 0, 9], 9).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(client.connect(SERVER, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);

    let listener = server.listen(7).unwrap();
    assert_eq!(server.listen(7).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::TimedOut);
    let mut stream = client.connect(SERVER, 7).unwrap();
    assert_eq!(stream.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    // Never accepted.
    stream.set_timeout(Duration::from_secs(20));
    drop(listener);
    assert_eq!(stream.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(server.listen(7).is_ok());

    let listener = server.listen(8).unwrap();
    let mut ours = client.connect(SERVER, 8).unwrap();
    let theirs = listener.accept().unwrap();
    ours.set_timeout(Duration::from_secs(20));
    drop(server);
    assert_eq!(ours.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!((&theirs).read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[test]
fn dropping_a_host_wakes_waiting_threads() {
    let (server, client) = pair(&Impairment::new());
    let listener = server.listen(7).unwrap();
    let mut stream = client.connect(SERVER, 7).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        let waiting = [
            scope.spawn(move || stream.read(&mut [0; 9]).unwrap_err().kind()),
            scope.spawn(move || {
                let first = listener.accept().and_then(|_| listener.accept());
                first.unwrap_err().kind()
            }),
        ];
        drop((server, client));
        waiting.map(|waiting| waiting.join().unwrap())
    });
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_full_backlog_makes_others_wait() {
    let (server, client) = pair(&Impairment::new());
    let listener = server.listen(7).unwrap();
    let streams: Vec<_> = (0..64).map(|_| client.connect(SERVER, 7).unwrap()).collect();
    thread::scope(|scope| {
        // Accepted once the backlog has room.
        let late = scope.spawn(|| client.connect(SERVER, 7).map(drop));
        for _ in 0..65 {
            listener.accept().unwrap();
        }
        late.join().unwrap().unwrap();
    });
    drop(streams);
}

#[test]
fn addresses_that_no_host_can_have() {
    let start = |builder: HostBuilder| builder.start(Switch::new().port().unwrap()).map(drop);
    for (builder, words) in [
        (Host::builder([10, 0, 0, 0]), "10.0.0.0/24 is not a host address"),
        (Host::builder([10, 0, 0, 255]), "10.0.0.255/24"),
        (Host::builder(SERVER).prefix_len(31), "10.0.0.1/31"),
        (Host::builder(SERVER).prefix_len(255), "10.0.0.1/255"),
        (Host::builder([224, 0, 0, 1]), "224.0.0.1 is not a unicast address"),
        (Host::builder([239, 1, 2, 3]), "239.1.2.3"),
        (Host::builder([240, 0, 0, 1]), "240.0.0.1"),
        (Host::builder([255, 255, 255, 254]), "255.255.255.254"),
        (Host::builder([255, 255, 255, 255]), "255.255.255.255"),
        (Host::builder([0, 0, 0, 0]), "0.0.0.0"),
        (Host::builder([0, 0, 0, 1]), "0.0.0.1"),
        (Host::builder(SERVER).prefix_len(30).dhcp([10, 0, 0, 3]), "10.0.0.3"),
        (Host::builder([10, 0, 0, 2]).prefix_len(30).dhcp([10, 0, 0, 2]), "no address to lease"),
        (Host::builder(SERVER).prefix_len(0), "10.0.0.1/0"),
        (Host::builder(SERVER).dhcp([10, 0, 1, 1]), "10.0.1.1 is not an address in the network of 10.0.0.1/24"),
    ] {
        let error = start(builder).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(start(Host::builder([10, 0, 0, 255]).prefix_len(16)).is_ok());
    let (port, _other) = Link::new().mtu(100).ports().unwrap();
    assert!(Host::new(port, SERVER).unwrap_err().to_string().contains("minimum is 576"));
    let port = Switch::new().port().unwrap().with_mac([0xff; 6]);
    assert!(Host::new(port, SERVER).is_err());
}

/// An unanswered request costs no real time, and two runs take the same virtual time.
#[test]
fn virtual_time_passes_in_no_time() {
    let run = || {
        let time = VirtualTime::new();
        let switch = Switch::in_virtual_time(&time);
        let impairment = Impairment::new().delay(Duration::from_millis(300)).loss(0.1).seed(4);
        let port = || switch.port_with(impairment.clone()).unwrap();
        let world = time.hold();
        let (server, client) = (Host::new(port(), SERVER).unwrap(), Host::new(port(), CLIENT).unwrap());
        let listener = server.listen(7).unwrap();
        // The server's thread answers by itself; the test holds the client and drives it.
        let hold = client.hold();
        drop(world);
        let mut stamps = vec![time.elapsed()];
        let mut stream = client.connect(SERVER, 7).unwrap();
        stamps.push(time.elapsed());
        stream.write_all(&[7; 20_000]).unwrap();
        stream.flush().unwrap();
        stamps.push(time.elapsed());
        stamps.extend((0..5).map(|_| client.ping_timeout(SERVER, Duration::from_secs(7)).unwrap_or_default()));
        assert_eq!(client.connect([10, 0, 0, 9], 7).unwrap_err().kind(), io::ErrorKind::TimedOut);
        stamps.push(time.elapsed());
        drop(hold);
        let mut theirs = listener.accept().unwrap();
        theirs.read_exact(&mut [0; 20_000]).unwrap();
        stamps
    };
    let start = Instant::now();
    let stamps = run();
    assert!(stamps[1] - stamps[0] >= Duration::from_millis(1200), "a frame there and one back, twice: {stamps:?}");
    assert!(stamps[8] - stamps[2] >= Duration::from_secs(30), "{stamps:?}");
    assert_eq!(run(), stamps);
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// No argument makes a host panic or wait for longer than its timeout.
#[test]
fn arguments_of_every_kind() {
    let (port, other) = Link::new().mtu(u16::MAX).ports().unwrap();
    let longest = Host::builder(CLIENT).timeout(Duration::MAX).seed(u64::MAX).start(other).unwrap();
    let long = "x".repeat(100_000);
    let builder = Host::builder(SERVER).name("", SERVER).name(&long, SERVER).name("..", [0; 4]).dhcp(SERVER);
    let host = builder.timeout(Duration::from_millis(5)).start(port).unwrap();
    for to in [[0; 4], [255; 4], SERVER, [10, 0, 0, 0], [10, 0, 0, 255], [224, 0, 0, 1], [127, 0, 0, 1], [240, 0, 0, 1]]
    {
        for port in [0, 1, u16::MAX] {
            assert!(host.connect(to, port).is_err(), "{to:?}:{port}");
        }
        assert!(host.ping(to).is_err(), "{to:?}");
        assert!(host.ping_timeout(to, Duration::ZERO).is_err(), "{to:?}");
    }
    assert!(host.listen(0).is_err());
    let listener = host.listen(u16::MAX).unwrap();
    let mut stream = longest.connect(SERVER, u16::MAX).unwrap();
    stream.set_timeout(Duration::MAX);
    let theirs = listener.accept().unwrap();
    theirs.set_timeout(Duration::ZERO);
    assert_eq!((&theirs).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    stream.write_all(b"x").unwrap();
    stream.flush().unwrap();
    longest.ping_timeout(SERVER, Duration::MAX).unwrap();
}

/// Hosts on a link send no more data than the other end has room for. Only replies that a received
/// frame causes, such as acknowledgements, may be dropped.
#[test]
fn a_short_queue_loses_no_data() {
    let (server, client) = Link::new().queue(8).ports().unwrap();
    let lost = [server.lost(), client.lost()];
    let (server, client) = (Host::new(server, SERVER).unwrap(), Host::new(client, CLIENT).unwrap());
    echo(&server, &client, 1_000_000);
    let lost = lost.map(|lost| lost());
    assert!(lost.iter().all(|len| *len < 100), "longest frames lost, in bytes: {lost:?}");
}
