"""A message of Protobuf, as ``protoc`` would generate it; needs the extra, kc[decode]."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FILE = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
for _name in ("Other", "Order"):
    _message = FILE.message_type.add(name=_name)
    _message.field.add(name="customer", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL", json_name="customer")

_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(FILE)
Order: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("shop.Order"))
ORDER_INDEX = b"\x02\x02"  # which message of its file it is: one index, and that is 1, both as zigzag varints
