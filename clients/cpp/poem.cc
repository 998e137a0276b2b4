// Asks a Qianyi server for a poem over gRPC, and prints it as it is written.
//   qianyi_poem HOST:PORT TITLE [FORM]      the key, if the server wants one, in QIANYI_KEY
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>

#include "grpcpp/grpcpp.h"
#include "qianyi/v1/inference.grpc.pb.h"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: qianyi_poem HOST:PORT TITLE [FORM]\n";
    return 2;
  }
  // Across a network: grpc::SslCredentials({}), so that nobody reads the key.
  const auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  const auto server = qianyi::v1::Inference::NewStub(channel);

  qianyi::v1::GenerateRequest request;
  request.mutable_poem()->set_title(argv[2]);
  if (argc > 3) request.mutable_poem()->set_form(argv[3]);
  request.mutable_parameters()->set_seed(7);  // the same poem every time

  // Leaving the context, or passing its deadline, ends the work on the server.
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  if (const char* key = std::getenv("QIANYI_KEY")) {
    context.AddMetadata("authorization", std::string("Bearer ") + key);
  }

  const auto stream = server->GenerateStream(&context, request);
  qianyi::v1::GenerateChunk chunk;
  while (stream->Read(&chunk)) std::cout << chunk.text() << std::flush;
  std::cout << '\n';

  const grpc::Status status = stream->Finish();
  if (status.ok()) return 0;
  std::cerr << status.error_message() << '\n';
  return 1;
}
