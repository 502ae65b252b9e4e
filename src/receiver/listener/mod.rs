//! Connections: the accept loop, TLS, timeouts, and the pipe of `headwater receive`.

pub(super) mod server;
pub(super) mod stdio;
pub(super) mod strict_http;
pub(super) mod timeout_stream;
pub(super) mod tls;
