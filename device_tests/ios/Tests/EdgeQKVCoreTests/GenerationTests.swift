import XCTest

#if canImport(EdgeQKVCore)
@testable import EdgeQKVCore
#endif

final class GenerationTests: XCTestCase {
    func testTokensArePickedAsPythonPicksThem() throws {
        for each in Golden.cases.sampling {
            let sampling = try Sampling(temperature: each.temperature, topK: each.top_k, topP: each.top_p)
            XCTAssertEqual(sampling.pick(each.logits, uniform: each.uniform), each.token, "\(sampling)")
        }
    }

    func testSettingsOutOfRangeAreRefused() {
        assertThrows("temperature -0.1") { _ = try Sampling(temperature: -0.1) }
        assertThrows("temperature nan") { _ = try Sampling(temperature: .nan) }
        assertThrows("top-k -1") { _ = try Sampling(temperature: 1, topK: -1) }
        assertThrows("top-p 0.0") { _ = try Sampling(temperature: 1, topP: 0) }
    }

    func testTextIsGeneratedAndEndsAsInPython() throws {
        for each in Golden.cases.generation {
            let runner = FakeRunner()
            var tokens: [Int] = []
            let outcome = try session(runner).generate(
                each.prompt,
                maxTokens: each.max_tokens,
                eosTokenIDs: Set(each.eos_token_ids)
            ) { tokens.append($0) }
            XCTAssertEqual(tokens, each.tokens)
            XCTAssertEqual(outcome.stopped.rawValue, each.stopped)
            XCTAssertEqual(runner.places, each.calls)
            XCTAssertEqual(outcome.prefill.tokens, each.prompt.count)
            XCTAssertEqual(outcome.decode.tokens, each.calls.filter { $0[1] >= each.prompt.count }.count)
        }
    }

    func testAGenerationIsStopped() throws {
        var left = 3
        var tokens: [Int] = []
        let outcome = try session(FakeRunner()).generate(
            [1],
            goOn: {
                left -= 1
                return left >= 0
            }
        ) { tokens.append($0) }
        XCTAssertEqual(outcome.stopped, .stopped)
        XCTAssertEqual(tokens.count, 4)
    }

    func testWhatDoesNotFitIsNotFed() throws {
        let session = session(FakeRunner())
        _ = try session.feed(Array(repeating: 0, count: 20))
        assertThrows("20 of 24 positions") { _ = try session.feed(Array(repeating: 0, count: 5)) }
        XCTAssertEqual(session.position, 20)
        assertThrows("token 40") { _ = try session.feed([Golden.cases.model.vocabulary]) }
        assertThrows("nothing to feed") { _ = try session.feed([]) }
        session.reset()
        _ = try session.feed(Array(repeating: 0, count: Golden.cases.model.context))
        XCTAssertEqual(session.position, Golden.cases.model.context)
    }
}
