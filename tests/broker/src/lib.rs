//! An in-process AMQP 0-9-1 broker and a fault link, for tests
