// What a call that failed says besides its code: google.rpc.Status, as clients' libraries read it.
#pragma once

#include <string>

#include "grpcpp/support/status_code_enum.h"
#include "server/error.h"

namespace qianyi {

// A serialized google.rpc.Status with ErrorInfo (the code, in domain "qianyi"), RetryInfo where
// trying again can help, and BadRequest where a field is at fault.
std::string ErrorDetails(const ApiError& error, grpc::StatusCode code);

}  // namespace qianyi
