import Foundation
import XCTest

#if canImport(EdgeQKVCore)
@testable import EdgeQKVCore
#endif

final class ChatTests: XCTestCase {
    func testConversationsAreWrittenAsPythonWritesThem() throws {
        for each in Golden.cases.chat {
            XCTAssertEqual(try each.card.written(each.messages), each.text)
        }
    }

    func testABundleTellsItsTemplate() throws {
        let hash = BundleTests.hash
        XCTAssertEqual(try ModelBundle(folder: Golden.bundle(), hash: hash).chat?.first, "<s>user\n")
        let without = try Golden.bundle {
            $0.replacingOccurrences(of: "\"chat\": {", with: "\"chat\": null, \"other\": {")
        }
        XCTAssertNil(try ModelBundle(folder: without, hash: hash).chat)
    }

    func testASystemMessageThatTheTemplateDoesNotTakeIsRefused() throws {
        let card = try XCTUnwrap(Golden.cases.chat.first { $0.card.system == nil }).card
        assertThrows("takes no system message") { _ = try card.written([Message(role: .system, content: "x")]) }
    }
}
