//! Connections: the accept loop, TLS, timeouts, and standard input and output for `headwater
//! receive`.

pub(super) mod server;
pub(super) mod stdio;
pub(super) mod strict_http;
pub(super) mod timeout_stream;
pub(super) mod tls;
