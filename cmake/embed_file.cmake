# cmake -DNAME=… -DINPUT=… -DOUTPUT=… -P embed_file.cmake: see embed.cmake.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
file(WRITE ${OUTPUT} "#include <string_view>
namespace qianyi {
static const char kBytes[] = {${bytes}'\\0'};
extern const std::string_view ${NAME};
const std::string_view ${NAME}(kBytes, sizeof kBytes - 1);
}  // namespace qianyi
")
