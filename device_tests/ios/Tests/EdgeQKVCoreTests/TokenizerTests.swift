import Foundation
import XCTest

#if canImport(EdgeQKVCore)
@testable import EdgeQKVCore
#endif

final class TokenizerTests: XCTestCase {
    func testTextsHaveTheTokensThatPythonGivesThem() throws {
        let tokenizer = try Tokenizer(file: Golden.tokenizer)
        for each in Golden.cases.tokenizer {
            XCTAssertEqual(tokenizer.encode(each.text), each.ids, each.text)
            XCTAssertEqual(tokenizer.decode(each.ids), each.decoded)
        }
    }

    func testTextStreamsInWholeCharacters() throws {
        let tokenizer = try Tokenizer(file: Golden.tokenizer)
        for each in Golden.cases.tokenizer {
            var stream = tokenizer.stream()
            let pieces = each.ids.map { stream.add($0) }.filter { !$0.isEmpty }
            XCTAssertEqual(pieces, each.pieces)
            XCTAssertEqual(stream.end(), "")
        }
    }

    func testACharacterThatIsCutOffIsShownAsSuch() throws {
        let tokenizer = try Tokenizer(file: Golden.tokenizer)
        XCTAssertEqual(tokenizer.decode(tokenizer.encode("🙂").dropLast()), "\u{FFFD}")
    }

    func testWhatTheReaderCannotDoIsNamed() throws {
        let text = try String(contentsOf: Golden.tokenizer, encoding: .utf8)
        let other = FileManager.default.temporaryDirectory.appending(path: "\(UUID().uuidString).json")
        let changed = text.replacingOccurrences(of: "\"normalizer\": null", with: "\"normalizer\": {\"type\": \"NFC\"}")
        try Data(changed.utf8).write(to: other)
        assertThrows("asks for a normalizer, which this small reader cannot do") { _ = try Tokenizer(file: other) }
    }
}
