#include "runtime/pictures/picture_file.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace qianyi {
namespace {

Picture Pattern(int64_t width, int64_t height) {
  Picture picture = {width, height, 3, {}};
  for (int64_t i = 0; i < width * height; ++i) {
    picture.bytes.push_back(static_cast<uint8_t>(i % width * 255 / width));
    picture.bytes.push_back(static_cast<uint8_t>(i / width * 255 / height));
    picture.bytes.push_back(static_cast<uint8_t>(90));
  }
  return picture;
}

TEST(PictureFileTest, PngComesBackExactlyAndTheOthersNearly) {
  const Picture picture = Pattern(53, 31);
  for (const PictureFormat format :
       {PictureFormat::kPng, PictureFormat::kJpeg, PictureFormat::kWebp}) {
    const auto bytes = EncodePicture(picture, format, 95);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const auto back = DecodePicture(*bytes);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(back->width, 53);
    EXPECT_EQ(back->height, 31);
    EXPECT_EQ(back->channels, 3);
    ASSERT_EQ(back->bytes.size(), picture.bytes.size());
    int worst = 0;
    for (size_t i = 0; i < picture.bytes.size(); ++i) {
      worst = std::max(worst, std::abs(back->bytes[i] - picture.bytes[i]));
    }
    EXPECT_LE(worst, format == PictureFormat::kPng ? 0 : 24) << PictureFormatName(format);
    EXPECT_EQ(*ParsePictureFormat(PictureFormatName(format)), format);
  }
}

TEST(PictureFileTest, EveryCutAndManyChangesAreErrorsOrPictures) {
  const Picture picture = Pattern(20, 20);
  for (const PictureFormat format :
       {PictureFormat::kPng, PictureFormat::kJpeg, PictureFormat::kWebp}) {
    const std::string bytes = *EncodePicture(picture, format);
    for (size_t length = 0; length < bytes.size(); ++length) {
      const auto cut = DecodePicture(bytes.substr(0, length));
      EXPECT_TRUE(cut.ok() || cut.status().code() == absl::StatusCode::kInvalidArgument);
    }
    for (size_t at = 0; at < bytes.size(); ++at) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ 0x55);
      const auto other = DecodePicture(changed);
      const int64_t pixels = other.ok() ? other->width * other->height : 0;
      EXPECT_TRUE(!other.ok() ||
                  static_cast<int64_t>(other->bytes.size()) == pixels * other->channels);
    }
  }
}

TEST(PictureFileTest, LimitsAreCheckedBeforeAnythingIsDecoded) {
  for (const PictureFormat format :
       {PictureFormat::kPng, PictureFormat::kJpeg, PictureFormat::kWebp}) {
    const std::string bytes = *EncodePicture(Pattern(300, 40), format);
    const auto wide = DecodePicture(bytes, {.side = 299});
    EXPECT_NE(wide.status().message().find("300x40"), std::string::npos) << wide.status();
    EXPECT_FALSE(DecodePicture(bytes, {.pixels = 11999}).ok());
    EXPECT_FALSE(DecodePicture(bytes, {.file_bytes = bytes.size() - 1}).ok());
    EXPECT_TRUE(DecodePicture(bytes, {.side = 300, .pixels = 12000}).ok());
  }
  EXPECT_FALSE(DecodePicture("GIF89a").ok());
  EXPECT_FALSE(DecodePicture("").ok());
  EXPECT_FALSE(ParsePictureFormat("gif").ok());
}

TEST(PictureTest, ResizingKeepsAPlainColourAndTheMiddle) {
  Picture plain = {37, 90, 3, std::vector<uint8_t>(37 * 90 * 3, 201)};
  const Picture sized = ResizeAndCrop(plain, 16);
  EXPECT_EQ(sized.width, 16);
  EXPECT_EQ(sized.height, 16);
  for (const uint8_t byte : sized.bytes) EXPECT_EQ(byte, 201);
  const Picture same = Resize(plain, 37, 90);
  EXPECT_EQ(same.bytes, plain.bytes);
}

}  // namespace
}  // namespace qianyi
