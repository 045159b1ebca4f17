//! Starts the binary, finds out where it listens, asks it, and ends it. Nothing here sleeps to wait: a condition is asked
//! again until it holds or its time is over.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest time that a condition may take to hold.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time that a process may take until it listens: a debug build that starts a whole fleet beside other tests' fleets
/// has little of a processor, and how soon it is there is a benchmark's question.
const STARTING: Duration = Duration::from_secs(120);
/// Time between two looks at a condition.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// A running `lariat`.
pub(crate) struct Lariat {
    child: Child,
    output: Arc<Mutex<Output>>,
}

#[derive(Default)]
struct Output {
    listening: BTreeMap<String, Vec<String>>,
    stdout: String,
    stderr: String,
    /// Streams that the process has closed; after both, nothing more comes.
    closed: u8,
}

impl Lariat {
    /// Starts the binary with these arguments, in an environment without our own variables.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// The same with further variables.
    pub(crate) fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_under(&[], arguments, variables)
    }

    /// A node of one profile, with its data in a folder.
    pub(crate) fn node(dir: &Path, profile: &str) -> Self {
        let (data, profiles) = (dir.join("data"), dir.join("profiles"));
        std::fs::create_dir_all(&profiles).unwrap();
        std::fs::write(profiles.join("public.yml"), profile).unwrap();
        Self::start_with(
            &["node", "--data-dir", &data.display().to_string(), "--profiles", &profiles.display().to_string()],
            &[
                ("LARIAT_PROXY__LISTEN", "127.0.0.1:0"),
                ("LARIAT_COLLECTOR__OTLP_GRPC", "127.0.0.1:0"),
                ("LARIAT_COLLECTOR__OTLP_HTTP", "127.0.0.1:0"),
                ("LARIAT_COLLECTOR__NODE_API", "127.0.0.1:0"),
            ],
        )
    }

    /// A query service over that node, once it has met it.
    pub(crate) async fn query_over(dir: &Path, node: &Self, variables: &[(&str, &str)]) -> Self {
        let nodes = format!("[\"{}\"]", node.url("node_api").await.trim_start_matches("http://"));
        let mut all = vec![("LARIAT_QUERY__HTTP", "127.0.0.1:0"), ("LARIAT_CLUSTER__NODES", nodes.as_str())];
        all.extend(variables);
        let query = Self::start_with(&["query", "--data-dir", &dir.join("query").display().to_string()], &all);
        query.ready("query").await;
        query
    }

    /// The same as [`Self::start_with`] by way of another program, which runs what it is given.
    pub(crate) fn start_under(by: &[&str], arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = command(by, arguments, variables).spawn().expect("the binary was built with this test");
        let output = Arc::new(Mutex::new(Output::default()));
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let for_stdout = Arc::clone(&output);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut output = for_stdout.lock().unwrap();
                if let Some((name, url)) = line.strip_prefix("listening ").and_then(|rest| rest.split_once(' ')) {
                    output.listening.entry(name.to_owned()).or_default().push(url.to_owned());
                }
                output.stdout.push_str(&line);
                output.stdout.push('\n');
            }
            for_stdout.lock().unwrap().closed += 1;
        });
        let for_stderr = Arc::clone(&output);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut output = for_stderr.lock().unwrap();
                output.stderr.push_str(&line);
                output.stderr.push('\n');
            }
            for_stderr.lock().unwrap().closed += 1;
        });
        Self { child, output }
    }

    /// Starts the demo with free ports, its data in `dir`, and waits until it is ready.
    pub(crate) async fn demo(dir: &Path, further: &[&str]) -> Self {
        let dir = dir.display().to_string();
        let mut arguments = vec!["demo", "--port-base", "0", "--data-dir", &dir];
        arguments.extend(further);
        let demo = Self::start(&arguments);
        demo.ready("query").await;
        demo
    }

    /// URL of the first listener of a name, once it is there.
    pub(crate) async fn url(&self, name: &str) -> String {
        self.nth_url(name, 0).await
    }

    /// URL of the n-th listener of a name, once it is there.
    pub(crate) async fn nth_url(&self, name: &str, number: usize) -> String {
        let started = Instant::now();
        loop {
            {
                let output = self.output.lock().unwrap();
                if let Some(url) = output.listening.get(name).and_then(|urls| urls.get(number)) {
                    return url.clone();
                }
                let text = format!("{}{}", output.stdout, output.stderr);
                assert!(output.closed < 2, "the process ended before it listened as {name} ({number}):\n{text}");
                assert!(started.elapsed() < STARTING, "waited {STARTING:?} for listener {name} ({number}) of\n{text}");
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Waits until `/ready` of a listener answers 200.
    pub(crate) async fn ready(&self, name: &str) {
        let url = self.url(name).await;
        eventually(&format!("{name} to be ready"), async || {
            let response = client().get(format!("{url}/ready")).send().await.ok()?;
            response.status().is_success().then_some(())
        })
        .await;
    }

    /// Rows of a SQL query and the whole answer.
    pub(crate) async fn sql(&self, query: &str) -> Value {
        sql_at(&self.url("query").await, query).await
    }

    /// Sends SIGKILL and waits.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it can be waited for");
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(status.expect("sh is a command of every Unix").success());
    }

    /// Sends SIGINT and waits for the end.
    pub(crate) async fn interrupt(mut self) -> (ExitStatus, String) {
        self.signal("INT");
        let status = self.wait().await;
        (status, self.text())
    }

    /// Waits for the end.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let text = self.text();
        eventually(&format!("the end of the process\n{text}"), async || {
            self.child.try_wait().expect("it can be waited for")
        })
        .await
    }

    /// All that it printed so far.
    pub(crate) fn text(&self) -> String {
        let output = self.output.lock().unwrap();
        format!("{}{}", output.stdout, output.stderr)
    }
}

impl Drop for Lariat {
    fn drop(&mut self) {
        // A test that failed in the middle must not leave a fleet behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the binary to its end: exit code, stdout, stderr.
pub(crate) fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut child = command(&[], arguments, variables).spawn().expect("the binary was built with this test");
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().expect("piped").read_to_string(&mut stdout).expect("text");
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    let status = child.wait().expect("it can be waited for");
    (status.code().unwrap_or(-1), stdout, stderr)
}

fn command(by: &[&str], arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut words = by.iter().copied().chain([env!("CARGO_BIN_EXE_lariat")]).chain(arguments.iter().copied());
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars() {
        if ["LARIAT_", "CLUSTER_", "OTEL_", "RELEASE_", "EXPECTED_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    // Tests run beside each other: a port that a test does not name must not be the usual one.
    command.envs(["LARIAT_QUERY__FLIGHT_SQL", "LARIAT_QUERY__POSTGRES"].map(|name| (name, "127.0.0.1:0")));
    command.envs(variables.iter().copied());
    command
}

/// An HTTP client. The TLS library wants its provider chosen once a process, also by who speaks plain HTTP.
pub(crate) fn client() -> reqwest::Client {
    static CHOSEN: std::sync::Once = std::sync::Once::new();
    CHOSEN.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("nobody else chooses one in this process");
    });
    reqwest::Client::new()
}

/// Asks the query service at `url`; anything but 200 fails the test with the service's own words.
pub(crate) async fn sql_at(url: &str, query: &str) -> Value {
    let response = client()
        .get(format!("{url}/api/v1/sql"))
        .query(&[("q", query)])
        .send()
        .await
        .expect("the query service answers");
    let status = response.status();
    let text = response.text().await.expect("the answer arrives whole");
    assert!(status.is_success(), "{query}\n{status}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// GET as JSON with its status.
pub(crate) async fn get_json(url: &str) -> (u16, Value) {
    let response = client().get(url).send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let status = response.status().as_u16();
    let text = response.text().await.expect("the answer arrives whole");
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error} in {text}"));
    (status, value)
}

/// One JSON-RPC call: the reply and its request id.
pub(crate) async fn call(url: &str, body: &str) -> (Value, String) {
    let response = client()
        .post(url)
        .header("content-type", "application/json")
        .body(body.to_owned())
        .send()
        .await
        .expect("the proxy answers");
    let id = response.headers().get("x-lariat-request-id").expect("every reply has one").to_str().unwrap().to_owned();
    let text = response.text().await.expect("the reply arrives whole");
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")), id)
}

/// Rows of an answer.
pub(crate) fn rows(answer: &Value) -> &[Value] {
    answer["rows"].as_array().map(Vec::as_slice).unwrap_or_else(|| panic!("no rows in {answer}"))
}

/// Looks at a condition until it holds; fails after [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// A port that nobody listens on, for what must be found there again after it was down: of those that systems give to nobody
/// who does not ask for them, so that no outgoing connection takes it meanwhile.
pub(crate) fn free_port() -> u16 {
    let taken = (0..1_000).map(|_| rand::random_range(15_000..32_000));
    taken.into_iter().find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("most are free")
}

/// A tool that a test needs: its path, or `None` after saying that the test did not run. With `LARIAT_REQUIRE_ALL=1`
/// a missing tool is a failure.
pub(crate) fn tool(name: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() {
        println!("not run: {name}");
        assert!(std::env::var_os("LARIAT_REQUIRE_ALL").is_none_or(|value| value != "1"), "not run: {name}");
    }
    found
}

/// Folder of the workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A program on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}
