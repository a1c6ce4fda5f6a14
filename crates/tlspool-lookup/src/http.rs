//! Revocation over HTTP: the answers of OCSP responders (RFC 6960 appendix A) and revocation lists.
//!
//! [`Http`] answers [`Query::Ocsp`] and [`Query::Crl`]. What it brings is signed, and whoever asked checks
//! that; the way is not protected, so an answer proves nothing but itself, and whatever else happens is a
//! failure, never absence. URLs come from certificates, and so from strangers: only `http:` is fetched,
//! redirects are not followed, nothing of an answer is told to anybody if it is not one, and addresses of
//! internal networks are asked only if the settings permit it.
//!
//! Equal questions under way at the same time are asked once. Runs on one thread, within a local tokio
//! runtime.

pub(crate) mod addresses;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tlspool_validate::sources::{Answer, Found, Looking, Options, Origin, Outcome, Query, Sources};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use crate::flights::{Flights, Trace};
use crate::names::Names;

/// URLs that are longer are not fetched, in bytes.
const MAX_URL: usize = 2048;
/// Addresses of one server that are tried.
const TRIED: usize = 4;
/// Header fields of an answer.
const MAX_HEADERS: usize = 64;
/// Bytes of the header of an answer.
const MAX_HEADER: usize = 16 * 1024;

/// Bounds, all of them settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a look-up may take.
    pub time_limit: Duration,
    /// How long it may take to connect to one address.
    pub connect_limit: Duration,
    /// Look-ups under way at one host.
    pub per_host: usize,
    /// Bytes of an OCSP answer.
    pub ocsp_bytes: usize,
    /// Bytes of a revocation list.
    pub crl_bytes: usize,
    /// Whether servers in internal networks may be asked: loopback, private and link-local addresses.
    pub internal: bool,
    /// URLs that an administrator has chosen: their servers may be anywhere.
    pub chosen: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            time_limit: Duration::from_secs(10),
            connect_limit: Duration::from_secs(3),
            per_host: 64,
            ocsp_bytes: 64 * 1024,
            crl_bytes: 8 << 20,
            internal: false,
            chosen: Vec::new(),
        }
    }
}

/// Fetches what revocation is known by.
#[derive(Debug)]
pub struct Http<N> {
    shared: Rc<Shared<N>>,
    look_ups: Flights<Query, Outcome>,
}

/// What look-ups share.
#[derive(Debug)]
struct Shared<N> {
    names: Rc<N>,
    settings: Settings,
    /// Look-ups under way, by host.
    under_way: RefCell<HashMap<String, usize>>,
}

impl<N: Names + 'static> Http<N> {
    /// With `names` to find servers.
    pub fn new(names: Rc<N>, settings: Settings) -> Self {
        let shared = Shared { names, settings, under_way: RefCell::default() };
        Self { shared: Rc::new(shared), look_ups: Flights::default() }
    }

    async fn find(&self, query: &Query, deadline: Instant) -> (Outcome, Vec<String>) {
        let (flight, trace) = self.look_ups.join(query.clone(), |trace| {
            let (shared, query) = (self.shared.clone(), query.clone());
            async move {
                let limit = shared.settings.time_limit;
                match timeout(limit, shared.fetch(&query, &trace)).await {
                    Ok(Ok(answer)) => Outcome::Present(answer),
                    Ok(Err(why)) => Outcome::Failed(why),
                    Err(_) => Outcome::Failed(format!("no answer within {limit:?}")),
                }
            }
        });
        let outcome = match timeout_at(deadline.into(), flight).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed("no answer before the deadline".into()),
        };
        (outcome, trace.steps())
    }
}

impl<N: Names + 'static> Sources for Http<N> {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        Box::pin(async move {
            let begin = Instant::now();
            let (outcome, steps) = self.find(query, options.deadline).await;
            Found { outcome, origin: Origin::Live, elapsed: begin.elapsed(), lasts: None, steps }
        })
    }
}

/// A URL that may be fetched, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: Host,
    port: u16,
    /// What the Host field says.
    authority: String,
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Place {
    fn parse(url: &str) -> Result<Self, String> {
        if url.len() > MAX_URL {
            return Err(format!("the URL has more than {MAX_URL} bytes"));
        }
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("{url:?} does not begin with http://"));
        }
        let authority = uri.authority().ok_or_else(|| format!("{url:?} names no server"))?;
        if authority.as_str().contains('@') {
            return Err(format!("{url:?} has a user in it"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 80,
            after => after
                .and_then(|after| after.strip_prefix(':')?.parse().ok())
                .ok_or_else(|| format!("{url:?} has no port after the colon"))?,
        };
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match literal.unwrap_or(&host).parse() {
            Ok(address) => Host::Address(address),
            Err(_) if host.is_empty() || literal.is_some() => {
                return Err(format!("{url:?} names no server"));
            }
            Err(_) => Host::Name(host),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { host, port, authority: authority.as_str().to_ascii_lowercase(), path })
    }
}

impl<N: Names> Shared<N> {
    async fn fetch(&self, query: &Query, trace: &Trace) -> Result<Answer, String> {
        let (url, method, body, limit) = match query {
            Query::Ocsp { url, request } => {
                (url, Method::POST, request.clone(), self.settings.ocsp_bytes)
            }
            Query::Crl { url } => (url, Method::GET, Vec::new(), self.settings.crl_bytes),
            _ => return Err("this is no question for an HTTP server".into()),
        };
        let place = Place::parse(url)?;
        let _seat = self.seat(&place)?;
        let stream = self.connect(url, &place, trace).await?;
        let mut request = Request::builder()
            .method(&method)
            .uri(&place.path)
            .header(HOST, &place.authority)
            .header(USER_AGENT, concat!("tlspool/", env!("CARGO_PKG_VERSION")));
        if method == Method::POST {
            request = request
                .header(CONTENT_TYPE, "application/ocsp-request")
                .header(ACCEPT, "application/ocsp-response");
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
        let begin = Instant::now();
        let bytes = exchange(stream, request, limit).await?;
        trace.step(format!(
            "{method} {url}: {} bytes, {} ms",
            bytes.len(),
            begin.elapsed().as_millis()
        ));
        Ok(match query {
            Query::Ocsp { .. } => Answer::Ocsp(bytes),
            _ => Answer::Crl(bytes),
        })
    }

    async fn connect(
        &self,
        url: &String,
        place: &Place,
        trace: &Trace,
    ) -> Result<TcpStream, String> {
        let mut addresses = match &place.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let deadline = Instant::now() + self.settings.time_limit;
                let found = self.names.addresses(name, deadline).await;
                found.map_err(|failure| failure.to_string())?
            }
        };
        if !self.settings.internal && !self.settings.chosen.contains(url) {
            addresses.retain(|address| !addresses::is_internal(*address));
            if addresses.is_empty() {
                return Err(format!(
                    "{} is in an internal network, where nobody is asked; see http.internal",
                    place.authority
                ));
            }
        }
        let mut last = format!("{} has no address", place.authority);
        for address in addresses.into_iter().take(TRIED) {
            let address = SocketAddr::new(address, place.port);
            let connecting = TcpStream::connect(address);
            match timeout(self.settings.connect_limit, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = format!("{address}: {error}"),
                Err(_) => last = format!("{address}: no connection in time"),
            }
            trace.step(last.clone());
        }
        Err(last)
    }

    /// The right to ask a host.
    fn seat(&self, place: &Place) -> Result<Seat<'_>, String> {
        let host = match &place.host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        };
        let (mut under_way, limit) = (self.under_way.borrow_mut(), self.settings.per_host);
        let count = under_way.entry(host.clone()).or_default();
        if *count >= limit {
            return Err(format!(
                "{host}: {limit} look-ups are under way already, which is the limit"
            ));
        }
        *count += 1;
        Ok(Seat { under_way: &self.under_way, host })
    }
}

/// Given back when dropped.
struct Seat<'a> {
    under_way: &'a RefCell<HashMap<String, usize>>,
    host: String,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(count) = under_way.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.host);
            }
        }
    }
}

/// One request on a new connection, which is closed after it.
async fn exchange(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Vec<u8>, String> {
    let failed = |error: hyper::Error| format!("the server does not speak HTTP well: {error}");
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // Ends with this function.
    let mut driver = JoinSet::new();
    driver.spawn_local(connection);
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(format!("the server answers {}", response.status()));
    }
    match Limited::new(response.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(format!("the answer has more than {limit} bytes"))
        }
        Err(error) => Err(format!("the answer ends too early: {error}")),
    }
}

#[cfg(test)]
mod tests;
