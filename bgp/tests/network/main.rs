//! Speakers joined by byte pipes, in virtual time: no socket, no clock, no thread. A failing seed is a bug report.

mod alone;
mod attacks;
mod convergence;
mod reflection;
mod restart;
mod routes;
mod sessions;
mod sim;
