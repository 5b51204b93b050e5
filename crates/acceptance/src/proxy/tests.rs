//! The proxy in front of a server that answers each line with `<line>!`.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::*;

/// Long enough for anything that happens, short enough to wait for what must not.
const PATIENCE: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_millis(100);

/// The server's address, and the lines that it was sent.
async fn server() -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, lines) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let (from, mut to) = stream.into_split();
                let mut from = BufReader::new(from).lines();
                while let Ok(Some(line)) = from.next_line().await {
                    let _ = to.write_all(format!("{line}!\n").as_bytes()).await;
                    let _ = seen.send(line);
                }
            });
        }
    });
    (address, lines)
}

async fn client(proxy: &Proxy) -> BufReader<TcpStream> {
    BufReader::new(TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap())
}

async fn send(client: &mut BufReader<TcpStream>, text: &str) {
    client.get_mut().write_all(text.as_bytes()).await.unwrap();
}

async fn answer(client: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    timeout(PATIENCE, client.read_line(&mut line))
        .await
        .expect("an answer")?;
    Ok(line)
}

async fn ask(client: &mut BufReader<TcpStream>, text: &str) -> String {
    send(client, text).await;
    answer(client).await.unwrap()
}

async fn gets_nothing(client: &mut BufReader<TcpStream>) -> bool {
    let mut byte = [0];
    timeout(A_WHILE, client.read(&mut byte)).await.is_err()
}

fn trap(pattern: &str, occurrence: usize, cut: Cut) -> Trap {
    let pattern = pattern.as_bytes().to_vec();
    Trap {
        pattern,
        occurrence,
        cut,
    }
}

async fn caught(snare: Snare) -> Held {
    timeout(PATIENCE, snare.caught()).await.expect("a catch").unwrap()
}

#[tokio::test]
async fn a_reset_is_a_reset_and_a_new_connection_works() {
    let (address, _lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let mut first = client(&proxy).await;
    assert_eq!(ask(&mut first, "a\n").await, "a!\n");
    proxy.reset();
    assert_eq!(
        answer(&mut first).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(ask(&mut client(&proxy).await, "b\n").await, "b!\n");
}

#[tokio::test]
async fn the_same_address_leads_elsewhere() {
    let (first, mut first_lines) = server().await;
    let (second, mut second_lines) = server().await;
    let proxy = Proxy::start(first).unwrap();
    let mut before = client(&proxy).await;
    ask(&mut before, "a\n").await;
    proxy.retarget(second);
    assert!(answer(&mut before).await.is_err());
    ask(&mut client(&proxy).await, "b\n").await;
    assert_eq!(first_lines.recv().await.unwrap(), "a");
    assert_eq!(second_lines.recv().await.unwrap(), "b");
}

#[tokio::test]
async fn silence_swallows_until_it_is_healed() {
    let (address, mut lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let mut old = client(&proxy).await;
    let mut idle = client(&proxy).await;
    ask(&mut old, "a\n").await;
    ask(&mut idle, "a\n").await;
    proxy.silence();
    let mut new = client(&proxy).await;
    send(&mut old, "b\n").await;
    send(&mut new, "c\n").await;
    assert!(gets_nothing(&mut old).await && gets_nothing(&mut new).await);
    proxy.heal();
    assert!(answer(&mut old).await.is_err() && answer(&mut new).await.is_err());
    assert_eq!(ask(&mut idle, "d\n").await, "d!\n");
    let seen = [lines.recv().await, lines.recv().await, lines.recv().await].map(Option::unwrap);
    assert_eq!(seen, ["a", "a", "d"]);
}

#[tokio::test]
async fn a_refused_connection_is_dropped_and_an_open_one_goes_on() {
    let (address, _lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let mut open = client(&proxy).await;
    ask(&mut open, "a\n").await;
    proxy.refuse();
    let mut byte = [0];
    assert!(!matches!(client(&proxy).await.read(&mut byte).await, Ok(1)));
    assert_eq!(ask(&mut open, "b\n").await, "b!\n");
    proxy.heal();
    assert_eq!(ask(&mut client(&proxy).await, "c\n").await, "c!\n");
}

#[tokio::test]
async fn a_slow_and_sliced_network_loses_nothing() {
    let (address, _lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    proxy.slow(Duration::from_millis(2));
    proxy.slice(3);
    let begun = std::time::Instant::now();
    let line = "0123456789".repeat(10);
    assert_eq!(
        ask(&mut client(&proxy).await, &format!("{line}\n")).await,
        format!("{line}!\n")
    );
    // Both ways 101 bytes or more, 3 at a time.
    assert!(begun.elapsed() >= Duration::from_millis(2 * 2 * 34));
}

#[tokio::test]
async fn before_means_that_the_server_never_sees_it() {
    let (address, mut lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let snare = proxy.trap(trap("stop", 2, Cut::Before));
    let mut client = client(&proxy).await;
    assert_eq!(ask(&mut client, "stop 1\n").await, "stop 1!\n");
    send(&mut client, "before\nstop 2\nbehind\n").await;
    let held = caught(snare).await;
    assert_eq!(answer(&mut client).await.unwrap(), "before!\n");
    assert!(gets_nothing(&mut client).await);
    drop(held);
    assert!(answer(&mut client).await.is_err());
    assert_eq!(
        [lines.recv().await.unwrap(), lines.recv().await.unwrap()],
        ["stop 1", "before"]
    );
    assert!(lines.try_recv().is_err());
}

#[tokio::test]
async fn within_means_that_a_part_arrives() {
    let (address, mut lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let snare = proxy.trap(trap("stop", 1, Cut::Within));
    let mut client = client(&proxy).await;
    send(&mut client, "stop\n1\n2\n3\n").await;
    let held = caught(snare).await;
    assert_eq!(lines.recv().await.unwrap(), "stop");
    assert_eq!(answer(&mut client).await.unwrap(), "stop!\n");
    held.go_on();
    for line in ["1", "2", "3"] {
        assert_eq!(lines.recv().await.unwrap(), line);
    }
}

#[tokio::test]
async fn after_means_that_it_is_done_and_the_client_does_not_know() {
    let (address, mut lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let snare = proxy.trap(trap("stop", 1, Cut::After));
    let mut client = client(&proxy).await;
    // In two pieces, so that the rest of the request is still to come when the trap springs.
    send(&mut client, "st").await;
    send(&mut client, "op\n1").await;
    send(&mut client, "2\n").await;
    let held = caught(snare).await;
    assert_eq!(
        [lines.recv().await.unwrap(), lines.recv().await.unwrap()],
        ["stop", "12"]
    );
    assert!(gets_nothing(&mut client).await);
    held.go_on();
    assert_eq!(answer(&mut client).await.unwrap(), "stop!\n");
    assert_eq!(answer(&mut client).await.unwrap(), "12!\n");
    assert_eq!(ask(&mut client, "more\n").await, "more!\n");
}

#[tokio::test]
async fn a_trap_that_nobody_waits_for_holds_nobody() {
    let (address, _lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    drop(proxy.trap(trap("stop", 1, Cut::Before)));
    assert_eq!(ask(&mut client(&proxy).await, "stop\n").await, "stop!\n");
}
