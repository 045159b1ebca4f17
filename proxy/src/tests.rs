//! The proxy over real sockets: simulated providers on one side, a collector that keeps what it gets on the other.

mod certificates;
mod client_weather;
mod conformance;
mod encrypted;
mod envelope;
mod filters;
mod fixture;
mod hedging;
mod limiting;
mod losses;
mod moving;
mod operating;
mod provider_weather;
mod recording;
mod reloading;
mod routing;
mod saving;
mod soak;
mod sockets;
mod specification;
mod subscribing;
mod tracing;
mod upstreams;
mod waiting;
mod websocket;
