#include "server/http/multipart.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

constexpr size_t kMostBoundaryBytes = 70;
constexpr size_t kMostHeaderBytes = 4096;

absl::Status Malformed(std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrFormat("the body is no well-formed multipart/form-data: %s", why));
}

std::string_view Strip(std::string_view text) {
  constexpr std::string_view kBlanks = " \t";
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

bool SameWord(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : int{c}; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](char x, char y) { return lower(x) == lower(y); });
}

// The value of `name` among the parameters behind the first ';': a token, or a quoted string.
std::optional<std::string> ParameterOf(std::string_view header, std::string_view name) {
  size_t at = header.find(';');
  while (at < header.size()) {
    std::string_view rest = Strip(header.substr(at + 1));
    const size_t equals = rest.find('=');
    if (equals == rest.npos) return std::nullopt;
    const bool found = SameWord(Strip(rest.substr(0, equals)), name);
    rest.remove_prefix(equals + 1);
    std::string value;
    size_t used = 0;
    if (!rest.empty() && rest[0] == '"') {
      for (used = 1; used < rest.size() && rest[used] != '"'; ++used) {
        if (rest[used] == '\\' && used + 1 < rest.size()) ++used;
        value.push_back(rest[used]);
      }
      if (used == rest.size()) return std::nullopt;
    } else {
      value = std::string(Strip(rest.substr(0, rest.find(';'))));
    }
    if (found) return value;
    at = rest.find(';', used);
    if (at == rest.npos) return std::nullopt;
    header = rest;
  }
  return std::nullopt;
}

absl::Status ReadHeaders(std::string_view headers, FormPart* part) {
  bool named = false;
  while (!headers.empty()) {
    const size_t end = headers.find("\r\n");
    const std::string_view line = headers.substr(0, end);
    headers.remove_prefix(end == headers.npos ? headers.size() : end + 2);
    const size_t colon = line.find(':');
    if (colon == line.npos) return Malformed("a part has a header without a colon");
    if (!SameWord(line.substr(0, colon), "content-disposition")) continue;
    const std::optional<std::string> name = ParameterOf(line.substr(colon + 1), "name");
    named = name.has_value() && !name->empty();
    if (named) part->name = *name;
    part->file = ParameterOf(line.substr(colon + 1), "filename").has_value();
  }
  return named ? absl::OkStatus() : Malformed("a part has no name");
}

}  // namespace

bool IsMultipart(std::string_view content_type) {
  return SameWord(Strip(content_type.substr(0, content_type.find(';'))), "multipart/form-data");
}

absl::StatusOr<std::vector<FormPart>> ParseMultipart(std::string_view content_type,
                                                     std::string_view body) {
  const std::optional<std::string> boundary = ParameterOf(content_type, "boundary");
  if (!boundary.has_value() || boundary->empty() || boundary->size() > kMostBoundaryBytes) {
    return Malformed("Content-Type has no boundary of 1 to 70 characters");
  }
  const std::string line = absl::StrCat("\r\n--", *boundary);
  // The first boundary may be the body's beginning; what comes before it is no part.
  size_t at =
      body.starts_with(std::string_view(line).substr(2)) ? line.size() - 2 : body.find(line);
  if (at == body.npos) return Malformed("it does not begin with its boundary");
  if (!body.starts_with(std::string_view(line).substr(2))) at += line.size();
  std::vector<FormPart> parts;
  while (!body.substr(at).starts_with("--")) {
    const size_t begin = body.find("\r\n", at);
    if (begin == body.npos || !Strip(body.substr(at, begin - at)).empty()) {
      return Malformed("it ends before its last boundary");
    }
    if (parts.size() == kMostFormParts) {
      return Malformed(absl::StrFormat("it has more than %d parts", kMostFormParts));
    }
    const size_t blank = body.find("\r\n\r\n", begin);
    if (blank == body.npos || blank - begin > kMostHeaderBytes) {
      return Malformed("the headers of a part do not end");
    }
    const size_t end = body.find(line, blank + 2);
    if (end == body.npos) return Malformed("it ends before its last boundary");
    FormPart part;
    if (blank < begin + 2) return Malformed("a part has no headers");
    absl::Status status = ReadHeaders(body.substr(begin + 2, blank - begin - 2), &part);
    if (!status.ok()) return status;
    part.body = end < blank + 4 ? std::string_view() : body.substr(blank + 4, end - blank - 4);
    parts.push_back(std::move(part));
    at = end + line.size();
  }
  return parts;
}

}  // namespace qianyi
