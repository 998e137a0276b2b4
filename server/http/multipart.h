// Forms with files in them: bodies of multipart/form-data (RFC 7578).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace qianyi {

struct FormPart {
  std::string name;
  bool file = false;      // it came with a file name
  std::string_view body;  // within the request's
};

// Whether this is such a body, by its Content-Type.
bool IsMultipart(std::string_view content_type);
// The parts in order. InvalidArgument for whatever is not such a form: no boundary, a part without
// a name, a body that ends before its last boundary, more than kMostFormParts.
inline constexpr size_t kMostFormParts = 64;
absl::StatusOr<std::vector<FormPart>> ParseMultipart(std::string_view content_type,
                                                     std::string_view body);

}  // namespace qianyi
