#include "server/access/tls.h"

#include <fstream>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "openssl/bio.h"
#include "openssl/err.h"
#include "openssl/pem.h"
#include "openssl/x509.h"

namespace qianyi {
namespace {

template <typename T, void (*kFree)(T*)>
struct Freed {
  void operator()(T* value) const { kFree(value); }
};
using Certificate = std::unique_ptr<X509, Freed<X509, X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;
using Bytes = std::unique_ptr<BIO, Freed<BIO, BIO_free_all>>;

Bytes Open(const std::string& text) {
  return Bytes(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

absl::Status ReadWhole(const char* flag, const std::string& path, std::string* text) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrFormat("%s %s cannot be read", flag, path));
  text->assign(std::istreambuf_iterator<char>(file), {});
  return absl::OkStatus();
}

absl::StatusOr<Certificate> ReadCertificate(const char* flag, const std::string& path,
                                            std::string* text) {
  if (absl::Status status = ReadWhole(flag, path, text); !status.ok()) return status;
  Certificate certificate(PEM_read_bio_X509(Open(*text).get(), nullptr, nullptr, nullptr));
  if (certificate != nullptr) return certificate;
  ERR_clear_error();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s %s holds no certificate in PEM", flag, path));
}

// An encrypted key is refused: nobody is there to be asked for its password.
int NoPassword(char*, int, int, void*) { return -1; }

}  // namespace

absl::StatusOr<Tls> ReadTls(const TlsFiles& files) {
  Tls tls;
  if (files.certificate.empty() != files.key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together; give both");
  }
  if (files.certificate.empty()) {
    if (files.client_ca.empty()) return tls;
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  auto certificate = ReadCertificate("--tls-cert", files.certificate, &tls.certificate);
  if (!certificate.ok()) return certificate.status();
  if (absl::Status status = ReadWhole("--tls-key", files.key, &tls.key); !status.ok()) {
    return status;
  }
  const PrivateKey key(PEM_read_bio_PrivateKey(Open(tls.key).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr || X509_check_private_key(certificate->get(), key.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        absl::StrCat("--tls-key ", files.key,
                     key == nullptr ? " holds no unencrypted private key in PEM"
                                    : " is not the key of the certificate of --tls-cert"));
  }
  if (!files.client_ca.empty()) {
    auto ca = ReadCertificate("--tls-client-ca", files.client_ca, &tls.client_ca);
    if (!ca.ok()) return ca.status();
  }
  return tls;
}

}  // namespace qianyi
