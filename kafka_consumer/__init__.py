"""A Kafka consumer for Python teams: give it a function and a topic, it does the rest.

>>> from kafka_consumer import KafkaConsumer, KafkaConsumerConfig
>>> config = KafkaConsumerConfig(bootstrap_servers="localhost:9092", topic="orders", group_id="billing",
...                              processor_callable=lambda value: None)  # doctest: +SKIP
>>> KafkaConsumer(config).run()  # doctest: +SKIP
"""

from kafka_consumer.config import KafkaConsumerConfig, validate_config
from kafka_consumer.csv_writers import backup_csv_loop, dlq_csv_loop
from kafka_consumer.errors import ConfigError, FilesInUseError, KafkaConsumerError, MessageTooLargeError
from kafka_consumer.kafka_consumer import KafkaConsumer
from kafka_consumer.message_view import Message
from kafka_consumer.offset_manager import commit_loop, find_max_contiguous
from kafka_consumer.polling_thread import polling_loop
from kafka_consumer.shared_state import SharedState
from kafka_consumer.signal_handler import SignalHandler
from kafka_consumer.snapshot import Snapshot
from kafka_consumer.worker_pool import WorkerPool, worker_loop

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "FilesInUseError",
    "KafkaConsumer",
    "KafkaConsumerConfig",
    "KafkaConsumerError",
    "Message",
    "MessageTooLargeError",
    "SharedState",
    "SignalHandler",
    "Snapshot",
    "WorkerPool",
    "backup_csv_loop",
    "commit_loop",
    "dlq_csv_loop",
    "find_max_contiguous",
    "polling_loop",
    "validate_config",
    "worker_loop",
]
