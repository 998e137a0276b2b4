#pragma once

#include "runtime/models/registry.h"

namespace qianyi {

extern const ModelFamily kChatGlm6bFamily;

}  // namespace qianyi
