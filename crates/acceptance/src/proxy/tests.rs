//! The proxy in front of a server that answers each line with `<line>!`.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::*;

/// Long enough for anything that happens, short enough to wait for what must not.
const PATIENCE: Duration = Duration::from_secs(60);
const SHORT_WAIT: Duration = Duration::from_millis(100);

/// Starts the server. Returns its address and the lines that it receives.
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
    timeout(SHORT_WAIT, client.read(&mut byte)).await.is_err()
}

fn breakpoint(pattern: &str, occurrence: usize, delivered: Delivered) -> Breakpoint {
    let pattern = pattern.as_bytes().to_vec();
    Breakpoint {
        pattern,
        occurrence,
        delivered,
    }
}

async fn reached(pending: PendingBreakpoint) -> SuspendedConnection {
    timeout(PATIENCE, pending.reached())
        .await
        .expect("a suspended connection")
        .unwrap()
}

#[tokio::test]
async fn a_client_sees_a_reset_and_can_connect_again() {
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
async fn a_proxy_can_be_moved_to_another_server() {
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
async fn a_blackhole_drops_data_until_it_is_healed() {
    let (address, mut lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let mut old = client(&proxy).await;
    let mut idle = client(&proxy).await;
    ask(&mut old, "a\n").await;
    ask(&mut idle, "a\n").await;
    proxy.blackhole();
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
async fn a_slow_and_fragmented_network_loses_nothing() {
    let (address, _lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    proxy.slow(Duration::from_millis(2));
    proxy.fragment(3);
    let begun = std::time::Instant::now();
    let line = "0123456789".repeat(10);
    assert_eq!(
        ask(&mut client(&proxy).await, &format!("{line}\n")).await,
        format!("{line}!\n")
    );
    // At least 101 bytes pass in each direction, 3 at a time.
    assert!(begun.elapsed() >= Duration::from_millis(2 * 2 * 34));
}

#[tokio::test]
async fn with_nothing_delivered_the_server_does_not_receive_the_message() {
    let (address, mut lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let pending = proxy.set_breakpoint(breakpoint("stop", 2, Delivered::Nothing));
    let mut client = client(&proxy).await;
    assert_eq!(ask(&mut client, "stop 1\n").await, "stop 1!\n");
    send(&mut client, "before\nstop 2\nbehind\n").await;
    let suspended = reached(pending).await;
    assert_eq!(answer(&mut client).await.unwrap(), "before!\n");
    assert!(gets_nothing(&mut client).await);
    drop(suspended);
    assert!(answer(&mut client).await.is_err());
    assert_eq!(
        [lines.recv().await.unwrap(), lines.recv().await.unwrap()],
        ["stop 1", "before"]
    );
    assert!(lines.try_recv().is_err());
}

#[tokio::test]
async fn with_a_part_delivered_the_server_receives_a_truncated_message() {
    let (address, mut lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let pending = proxy.set_breakpoint(breakpoint("stop", 1, Delivered::Part));
    let mut client = client(&proxy).await;
    send(&mut client, "stop\n1\n2\n3\n").await;
    let suspended = reached(pending).await;
    assert_eq!(lines.recv().await.unwrap(), "stop");
    assert_eq!(answer(&mut client).await.unwrap(), "stop!\n");
    suspended.resume();
    for line in ["1", "2", "3"] {
        assert_eq!(lines.recv().await.unwrap(), line);
    }
}

#[tokio::test]
async fn with_all_delivered_the_server_replies_and_the_client_does_not_receive_it() {
    let (address, mut lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    let pending = proxy.set_breakpoint(breakpoint("stop", 1, Delivered::All));
    let mut client = client(&proxy).await;
    // The client writes twice, so that the rest of the request arrives after the breakpoint is reached.
    send(&mut client, "st").await;
    send(&mut client, "op\n1").await;
    send(&mut client, "2\n").await;
    let suspended = reached(pending).await;
    assert_eq!(
        [lines.recv().await.unwrap(), lines.recv().await.unwrap()],
        ["stop", "12"]
    );
    assert!(gets_nothing(&mut client).await);
    suspended.resume();
    assert_eq!(answer(&mut client).await.unwrap(), "stop!\n");
    assert_eq!(answer(&mut client).await.unwrap(), "12!\n");
    assert_eq!(ask(&mut client, "more\n").await, "more!\n");
}

#[tokio::test]
async fn a_dropped_breakpoint_suspends_no_connection() {
    let (address, _lines) = server().await;
    let proxy = Proxy::start(address).unwrap();
    drop(proxy.set_breakpoint(breakpoint("stop", 1, Delivered::Nothing)));
    assert_eq!(ask(&mut client(&proxy).await, "stop\n").await, "stop!\n");
}
