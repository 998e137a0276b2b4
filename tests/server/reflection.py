"""gRPC without generated code: messages and methods are learned from the server."""

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)


class ByReflection:
    """For a TestCase that has a `server`."""

    def setUp(self):
        self.channel = grpc.insecure_channel(self.server.grpc)
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.service = self.pool.FindServiceByName("qianyi.v1.Inference")

    def tearDown(self):
        self.channel.close()

    def message(self, name, /, **fields):
        kind = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))
        return kind(**fields)

    def method(self, name):
        """What calls it; unlike looking it up, for any thread."""
        kind = self.service.methods_by_name[name]
        make = self.channel.unary_stream if kind.server_streaming else self.channel.unary_unary
        answer = message_factory.GetMessageClass(kind.output_type)
        return make(f"/{self.service.full_name}/{name}",
                    request_serializer=lambda request: request.SerializeToString(),
                    response_deserializer=answer.FromString)

    def call(self, method, request, **options):
        return self.method(method)(request, **options)

    def generate(self, **fields):
        return self.message("qianyi.v1.GenerateRequest", **fields)
