// Bodies of the endpoints about pictures: JSON, or forms with files in them.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "server/image_request.h"

namespace qianyi {

// InvalidArgument with the field at fault; fields that are not known are refused by name.
absl::StatusOr<ImageRequest> ParseImage(ImageWork work, std::string_view content_type,
                                        std::string_view text);

}  // namespace qianyi
