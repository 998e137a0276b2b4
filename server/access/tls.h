// Certificates of both ports.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace qianyi {

struct TlsFiles {
  std::string certificate;  // PEM, the server's own first; empty: no TLS
  std::string key;          // PEM
  std::string client_ca;    // PEM; clients must show a certificate that it signed; may be empty
};

// Their contents.
struct Tls {
  std::string certificate, key, client_ca;

  bool on() const { return !certificate.empty(); }
  bool asks_clients() const { return !client_ca.empty(); }
};

// InvalidArgument or NotFound, naming the flag (--tls-cert, --tls-key, --tls-client-ca) and file;
// also when the key is not the certificate's.
absl::StatusOr<Tls> ReadTls(const TlsFiles& files);

}  // namespace qianyi
