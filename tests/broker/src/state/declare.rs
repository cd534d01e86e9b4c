//! Declaring, binding and deleting: methods of the classes `queue` and `exchange`.

use std::sync::Arc;

use amq_protocol::{
    protocol::{AMQPClass, exchange as ex, queue as qu},
    types::ShortString,
};

use super::{
    BrokerState, ConnId,
    arguments::{
        EXCHANGE_ARGUMENTS, QUEUE_ARGUMENTS, check_x_match, equal, equal_arguments, inequivalent,
    },
    exchange::{Binding, Destination, Exchange, Kind},
    frames::{Refusal, short},
    queue::{Limits, Queue, QueueId, text, type_name},
};

impl BrokerState {
    pub(super) fn queue_method(
        &mut self,
        id: ConnId,
        channel: u16,
        method: qu::AMQPMethod,
    ) -> Result<(), Refusal> {
        match method {
            qu::AMQPMethod::Declare(declare) => self.queue_declare(id, channel, &declare),
            qu::AMQPMethod::Bind(bind) => {
                self.logs.add(id, channel, "queue.bind", bind.queue.as_str());
                let queue = self.accessible_queue(id, channel, bind.queue.as_str())?;
                let binding = Binding {
                    destination: Destination::Queue(queue),
                    key: bind.routing_key.as_str().to_owned(),
                    arguments: bind.arguments,
                };
                self.bind(bind.exchange.as_str(), binding)?;
                self.reply(id, channel, bind.nowait, || qu::AMQPMethod::BindOk(qu::BindOk {}));
                Ok(())
            }
            qu::AMQPMethod::Unbind(unbind) => {
                self.logs.add(id, channel, "queue.unbind", unbind.queue.as_str());
                if unbind.exchange.as_str().is_empty() {
                    return Err(default_exchange());
                }
                let queue = self.named_queue(id, channel, unbind.queue.as_str());
                if let Some(queue) = self.queue_names.get(&*queue).copied() {
                    let binding = Binding {
                        destination: Destination::Queue(queue),
                        key: unbind.routing_key.as_str().to_owned(),
                        arguments: unbind.arguments,
                    };
                    let exchange = self.exchanges.get(unbind.exchange.as_str());
                    if exchange.is_some_and(|exchange| exchange.bindings.contains(&binding)) {
                        self.accessible_queue(id, channel, unbind.queue.as_str())?;
                    }
                    self.unbind(unbind.exchange.as_str(), &binding)?;
                }
                self.reply(id, channel, false, || qu::AMQPMethod::UnbindOk(qu::UnbindOk {}));
                Ok(())
            }
            qu::AMQPMethod::Purge(purge) => {
                self.logs.add(id, channel, "queue.purge", purge.queue.as_str());
                let queue = self.accessible_queue(id, channel, purge.queue.as_str())?;
                let message_count = self.purge_queue_id(queue);
                self.reply(id, channel, purge.nowait, || {
                    qu::AMQPMethod::PurgeOk(qu::PurgeOk { message_count })
                });
                Ok(())
            }
            qu::AMQPMethod::Delete(delete) => {
                self.logs.add(id, channel, "queue.delete", delete.queue.as_str());
                self.queue_delete(id, channel, &delete)
            }
            _ => Err(Refusal::connection(503, "unimplemented method")),
        }
    }

    fn reply(
        &mut self,
        id: ConnId,
        channel: u16,
        nowait: bool,
        method: impl FnOnce() -> qu::AMQPMethod,
    ) {
        if !nowait {
            self.send(id, channel, &AMQPClass::Queue(method()));
        }
    }

    fn queue_declare(
        &mut self,
        id: ConnId,
        channel: u16,
        declare: &qu::Declare,
    ) -> Result<(), Refusal> {
        let name = declare.queue.as_str();
        let log = if declare.passive { "queue.declare-passive" } else { "queue.declare" };
        self.logs.add(id, channel, log, name);
        let queue = if name.is_empty() && !declare.passive {
            let name = self.generated("amq.gen-");
            self.create_queue(id, &name, declare)?
        } else if declare.passive {
            self.accessible_queue(id, channel, name)?
        } else if self.queue_names.contains_key(name) {
            let queue = self.accessible_queue(id, channel, name)?;
            self.check_equivalent_queue(queue, declare)?;
            queue
        } else if name.starts_with("amq.") {
            return Err(Refusal::channel(
                403,
                format!("queue name '{name}' contains reserved prefix 'amq.*'"),
            ));
        } else {
            self.create_queue(id, name, declare)?
        };
        let Some(queue) = self.queues.get(&queue) else { return Ok(()) };
        let name = queue.name.clone();
        let ok = qu::DeclareOk {
            queue: short(&name).into(),
            message_count: u32::try_from(queue.ready.len()).unwrap_or(u32::MAX),
            consumer_count: u32::try_from(queue.consumers.len()).unwrap_or(u32::MAX),
        };
        if let Some(open) = self.channel_mut(id, channel) {
            open.last_queue = name;
        }
        self.reply(id, channel, declare.nowait, || qu::AMQPMethod::DeclareOk(ok));
        Ok(())
    }

    fn create_queue(
        &mut self,
        id: ConnId,
        name: &str,
        declare: &qu::Declare,
    ) -> Result<QueueId, Refusal> {
        let invalid = |argument: &str, why: &str| {
            let what = format!("invalid arg '{argument}' for queue '{name}' in vhost '/': {why}");
            Refusal::channel(406, what)
        };
        let rabbitmq = self.settings.personality.is_rabbitmq();
        let limits = if rabbitmq {
            Limits::checked_by_rabbitmq(&declare.arguments)
        } else {
            Limits::from_arguments(&declare.arguments)
        };
        let limits = limits.map_err(|(argument, why)| invalid(argument, &why))?;
        if let Some(exchange) = declare.arguments.inner().get("x-dead-letter-exchange")
            && rabbitmq
            && text(exchange).is_none()
        {
            let what = format!(
                "invalid type '{}' for arg 'x-dead-letter-exchange' in queue '{name}' in vhost '/'",
                type_name(exchange)
            );
            return Err(Refusal::channel(406, what));
        }
        let kind = declare.arguments.inner().get("x-queue-type").map(text);
        let known = matches!(
            kind.as_ref().map(Option::as_deref),
            None | Some(Some("classic" | "quorum" | "stream"))
        );
        if !known && rabbitmq {
            let kind = kind.flatten().unwrap_or_default();
            return Err(invalid("x-queue-type", &format!("\"unsupported queue type '{kind}'\"")));
        }
        let queue_id = QueueId(self.next_queue);
        self.next_queue += 1;
        let name: Arc<str> = Arc::from(name);
        let durable = self.is_durable(declare);
        let mut queue = Queue::new(name.clone(), durable, limits, declare.arguments.clone());
        queue.auto_delete = declare.auto_delete;
        queue.exclusive = declare.exclusive.then_some(id);
        self.queues.insert(queue_id, queue);
        self.queue_names.insert(name, queue_id);
        Ok(queue_id)
    }

    fn check_equivalent_queue(&self, queue: QueueId, declare: &qu::Declare) -> Result<(), Refusal> {
        let Some(queue) = self.queues.get(&queue) else { return Ok(()) };
        let of = format!("queue '{}' in vhost '/'", queue.name);
        if declare.exclusive != queue.exclusive.is_some() {
            return Err(locked(&queue.name));
        }
        equal("durable", &of, self.is_durable(declare), queue.durable)?;
        equal("auto_delete", &of, declare.auto_delete, queue.auto_delete)?;
        equal_arguments(
            self.settings.personality,
            &of,
            QUEUE_ARGUMENTS,
            &declare.arguments,
            &queue.arguments,
        )
    }

    /// RabbitMQ's exclusive queues are never durable.
    const fn is_durable(&self, declare: &qu::Declare) -> bool {
        declare.durable && !(declare.exclusive && self.settings.personality.is_rabbitmq())
    }

    /// The name that a method means: an empty one is that of the queue that this channel declared last.
    fn named_queue(&mut self, id: ConnId, channel: u16, name: &str) -> Arc<str> {
        match self.channel_mut(id, channel) {
            Some(open) if name.is_empty() => open.last_queue.clone(),
            _ => Arc::from(name),
        }
    }

    /// The queue of this name (empty: the one this channel declared last), if the connection may use it.
    pub(super) fn accessible_queue(
        &mut self,
        id: ConnId,
        channel: u16,
        name: &str,
    ) -> Result<QueueId, Refusal> {
        let name = &*self.named_queue(id, channel, name);
        let missing = || Refusal::channel(404, format!("no queue '{name}' in vhost '/'"));
        let queue_id = self.queue_names.get(name).copied().ok_or_else(missing)?;
        let owner = self.queues.get(&queue_id).and_then(|queue| queue.exclusive);
        if owner.is_some_and(|owner| owner != id) {
            return Err(locked(name));
        }
        Ok(queue_id)
    }

    fn queue_delete(
        &mut self,
        id: ConnId,
        channel: u16,
        delete: &qu::Delete,
    ) -> Result<(), Refusal> {
        let name = delete.queue.as_str();
        let ok = |message_count| qu::AMQPMethod::DeleteOk(qu::DeleteOk { message_count });
        // Deleting what does not exist succeeds on both brokers.
        if !name.is_empty() && !self.queue_names.contains_key(name) {
            self.reply(id, channel, delete.nowait, || ok(0));
            return Ok(());
        }
        let queue_id = self.accessible_queue(id, channel, name)?;
        let Some(queue) = self.queues.get(&queue_id) else { return Ok(()) };
        if delete.if_unused && !queue.consumers.is_empty() {
            return Err(Refusal::channel(406, format!("queue '{name}' in vhost '/' in use")));
        }
        if delete.if_empty && !queue.ready.is_empty() {
            return Err(Refusal::channel(406, format!("queue '{name}' in vhost '/' not empty")));
        }
        let Some(queue) = self.take_queue(queue_id) else { return Ok(()) };
        let count = u32::try_from(queue.ready.len()).unwrap_or(u32::MAX);
        if self.settings.personality.is_rabbitmq() {
            self.reply(id, channel, delete.nowait, || ok(count));
            self.cancel_consumers(queue.consumers);
        } else {
            self.cancel_consumers(queue.consumers);
            self.reply(id, channel, delete.nowait, || ok(count));
        }
        Ok(())
    }

    /// Deletes a queue and its bindings, and cancels its consumers.
    pub(super) fn delete_queue_id(&mut self, id: QueueId) {
        if let Some(queue) = self.take_queue(id) {
            self.cancel_consumers(queue.consumers);
        }
    }

    /// Removes a queue and its bindings; its consumers are still to be cancelled.
    fn take_queue(&mut self, id: QueueId) -> Option<Queue> {
        let queue = self.queues.remove(&id)?;
        self.queue_names.remove(&queue.name);
        self.dirty.remove(&id);
        self.remove_bindings_to(&Destination::Queue(id));
        Some(queue)
    }

    pub(super) fn purge_queue_id(&mut self, id: QueueId) -> u32 {
        self.queues.get_mut(&id).map_or(0, |queue| {
            let count = u32::try_from(queue.ready.len()).unwrap_or(u32::MAX);
            queue.ready.clear();
            count
        })
    }

    pub(super) fn exchange_method(
        &mut self,
        id: ConnId,
        channel: u16,
        method: ex::AMQPMethod,
    ) -> Result<(), Refusal> {
        let (nowait, reply) = match method {
            ex::AMQPMethod::Declare(declare) => {
                self.logs.add(id, channel, "exchange.declare", declare.exchange.as_str());
                let nowait = declare.nowait;
                self.declare_exchange(declare)?;
                (nowait, ex::AMQPMethod::DeclareOk(ex::DeclareOk {}))
            }
            ex::AMQPMethod::Delete(delete) => {
                self.logs.add(id, channel, "exchange.delete", delete.exchange.as_str());
                self.delete_exchange(delete.exchange.as_str(), delete.if_unused)?;
                (delete.nowait, ex::AMQPMethod::DeleteOk(ex::DeleteOk {}))
            }
            ex::AMQPMethod::Bind(bind) => {
                self.logs.add(id, channel, "exchange.bind", bind.destination.as_str());
                let destination = self.existing_exchange(bind.destination.as_str())?;
                let key = bind.routing_key.as_str().to_owned();
                let binding = Binding { destination, key, arguments: bind.arguments };
                self.bind(bind.source.as_str(), binding)?;
                (bind.nowait, ex::AMQPMethod::BindOk(ex::BindOk {}))
            }
            ex::AMQPMethod::Unbind(unbind) => {
                self.logs.add(id, channel, "exchange.unbind", unbind.destination.as_str());
                if unbind.destination.as_str().is_empty() {
                    return Err(default_exchange());
                }
                let destination = Destination::Exchange(unbind.destination.as_str().into());
                let key = unbind.routing_key.as_str().to_owned();
                let binding = Binding { destination, key, arguments: unbind.arguments };
                self.unbind(unbind.source.as_str(), &binding)?;
                (unbind.nowait, ex::AMQPMethod::UnbindOk(ex::UnbindOk {}))
            }
            _ => return Err(Refusal::connection(503, "unimplemented method")),
        };
        if !nowait {
            self.send(id, channel, &AMQPClass::Exchange(reply));
        }
        Ok(())
    }

    fn declare_exchange(&mut self, declare: ex::Declare) -> Result<(), Refusal> {
        let name = declare.exchange.as_str();
        if name.is_empty() {
            return Err(default_exchange());
        }
        let Some(existing) = self.exchanges.get(name) else {
            if declare.passive {
                return Err(no_exchange(name));
            }
            let kind = self.kind(&declare.kind)?;
            if name.starts_with("amq.") {
                return Err(Refusal::channel(
                    403,
                    format!("exchange name '{name}' contains reserved prefix 'amq.*'"),
                ));
            }
            let exchange = Exchange {
                kind,
                durable: declare.durable,
                auto_delete: declare.auto_delete,
                internal: declare.internal,
                arguments: declare.arguments,
                bindings: Vec::new(),
            };
            self.exchanges.insert(Arc::from(name), exchange);
            return Ok(());
        };
        if declare.passive {
            return Ok(());
        }
        let kind = self.kind(&declare.kind)?;
        let of = format!("exchange '{name}' in vhost '/'");
        if kind != existing.kind {
            return Err(inequivalent("type", &of, kind.name(), existing.kind.name()));
        }
        equal("durable", &of, declare.durable, existing.durable)?;
        equal("auto_delete", &of, declare.auto_delete, existing.auto_delete)?;
        equal("internal", &of, declare.internal, existing.internal)?;
        equal_arguments(
            self.settings.personality,
            &of,
            EXCHANGE_ARGUMENTS,
            &declare.arguments,
            &existing.arguments,
        )
    }

    fn kind(&self, name: &ShortString) -> Result<Kind, Refusal> {
        Kind::from_name(name.as_str()).ok_or_else(|| {
            if self.settings.personality.is_rabbitmq() {
                // The empty name is one that it knows, but not as that of a type.
                let how = if name.as_str().is_empty() { "invalid" } else { "unknown" };
                Refusal::connection(503, format!("{how} exchange type '{name}'"))
            } else {
                Refusal::channel(406, format!("unknown exchange type '{name}'"))
            }
        })
    }

    fn delete_exchange(&mut self, name: &str, if_unused: bool) -> Result<(), Refusal> {
        if name.is_empty() {
            return Err(default_exchange());
        }
        if name.starts_with("amq.") {
            return Err(Refusal::channel(
                403,
                format!("deletion of system exchange '{name}' in vhost '/' not allowed"),
            ));
        }
        if if_unused && self.exchanges.get(name).is_some_and(|found| !found.bindings.is_empty()) {
            return Err(Refusal::channel(406, format!("exchange '{name}' in vhost '/' in use")));
        }
        if let Some((name, _)) = self.exchanges.remove_entry(name) {
            self.remove_bindings_to(&Destination::Exchange(name));
        }
        Ok(())
    }

    fn existing_exchange(&self, name: &str) -> Result<Destination, Refusal> {
        if name.is_empty() {
            return Err(default_exchange());
        }
        let (name, _) = self.exchanges.get_key_value(name).ok_or_else(|| no_exchange(name))?;
        Ok(Destination::Exchange(name.clone()))
    }

    fn bind(&mut self, source: &str, binding: Binding) -> Result<(), Refusal> {
        if source.is_empty() {
            return Err(default_exchange());
        }
        let rabbitmq = self.settings.personality.is_rabbitmq();
        let exchange = self.exchanges.get_mut(source).ok_or_else(|| no_exchange(source))?;
        if rabbitmq && exchange.kind == Kind::Headers {
            check_x_match(&binding.arguments)?;
        }
        if !exchange.bindings.contains(&binding) {
            exchange.bindings.push(binding);
        }
        Ok(())
    }

    /// What is not there is not bound: on both brokers, unbinding it is no mistake.
    fn unbind(&mut self, source: &str, binding: &Binding) -> Result<(), Refusal> {
        if source.is_empty() {
            return Err(default_exchange());
        }
        let Some(exchange) = self.exchanges.get_mut(source) else { return Ok(()) };
        let before = exchange.bindings.len();
        exchange.bindings.retain(|other| other != binding);
        let was_last = before > 0 && exchange.bindings.is_empty();
        if was_last && exchange.auto_delete {
            self.delete_exchange(source, false)?;
        }
        Ok(())
    }

    /// Removes what is bound to something that is gone, and then auto-delete exchanges without bindings.
    pub(super) fn remove_bindings_to(&mut self, destination: &Destination) {
        let mut unused = Vec::new();
        for (name, exchange) in &mut self.exchanges {
            let before = exchange.bindings.len();
            exchange.bindings.retain(|binding| binding.destination != *destination);
            if exchange.auto_delete && before > 0 && exchange.bindings.is_empty() {
                unused.push(name.clone());
            }
        }
        // A chain of auto-delete exchanges ends: each turn removes one from the map.
        for name in unused {
            if self.exchanges.remove(&name).is_some() {
                self.remove_bindings_to(&Destination::Exchange(name));
            }
        }
    }

    /// A name that was not there before.
    pub(super) fn generated(&mut self, prefix: &str) -> String {
        format!("{prefix}{:016x}{:06x}", self.random.next(), self.random.below(1 << 24))
    }
}

fn no_exchange(name: &str) -> Refusal {
    Refusal::channel(404, format!("no exchange '{name}' in vhost '/'"))
}

fn default_exchange() -> Refusal {
    Refusal::channel(403, "operation not permitted on the default exchange")
}

fn locked(name: &str) -> Refusal {
    Refusal::channel(
        405,
        format!(
            "cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be \
             originally declared on another connection or the exclusive property value does not match \
             that of the original declaration."
        ),
    )
}
