//! Starts the containers that environments need and nobody runs, and retires those that none needs.

pub mod engine;
