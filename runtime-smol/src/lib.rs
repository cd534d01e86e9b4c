//! AMQP 0-9-1 client for LavinMQ and RabbitMQ on smol
