import Foundation

/// A bundle, a prompt or a setting that cannot be used: what is wrong, with which value, and what to do about it.
public struct EdgeQKVError: LocalizedError, Equatable {
    public let message: String
    public var errorDescription: String? { message }

    public init(_ message: String) {
        self.message = message
    }
}

/// The folder that `edgeqkv export` wrote, read through its `manifest.json`.
public struct ModelBundle: Sendable {
    /// Of the manifest; 1 had no roles.
    public static let format = 2

    public let folder: URL
    public let variant: String
    public let targets: [String: Artifact]
    public let tokenizer: URL?
    public let eosTokenIDs: Set<Int>
    /// What stands around the messages of a conversation; nil where the model has no template that is only that.
    public let chat: ChatCard?
    /// The SHA-256 of the manifest: what a device report calls this bundle.
    public let sha256: String
    private let files: [String: FileCard]
    private let hash: @Sendable (URL) throws -> String

    /// - Parameter hash: the SHA-256 of a file, in hexadecimal digits.
    public init(folder: URL, hash: @escaping @Sendable (URL) throws -> String) throws {
        let file = folder.appending(path: "manifest.json")
        guard let data = try? Data(contentsOf: file) else {
            throw EdgeQKVError("there is no bundle in \(folder.path): it has no manifest.json")
        }
        let told = try? JSONDecoder().decode(Format.self, from: data).format
        guard told == Self.format else {
            let format = told.map(String.init) ?? "unknown"
            let help = told == 1 ? "Export the model again" : "Update this app, or export the model again"
            throw EdgeQKVError(
                "\(file.path) is of format \(format), and this app reads format \(Self.format). \(help)"
            )
        }
        let kind = (try? JSONDecoder().decode(Kind.self, from: data))?.model.kind
        if let kind, kind != "decoder" {
            throw EdgeQKVError("\(folder.path) holds an \(kind), which continues no text")
        }
        do {
            let manifest = try JSONDecoder().decode(Manifest.self, from: data)
            variant = manifest.model.variant
            targets = manifest.targets.mapValues(\.artifact)
            tokenizer = manifest.tokenizer.map { folder.appending(path: $0.file) }
            eosTokenIDs = Set(manifest.tokenizer?.eosTokenIDs ?? [])
            chat = manifest.tokenizer?.chat
            files = manifest.files
        } catch let error as DecodingError {
            throw EdgeQKVError("\(file.path) is damaged: \(error). Export the model again")
        }
        self.folder = folder
        self.hash = hash
        sha256 = try hash(file)
    }

    /// The named target's export.
    public func target(_ name: String) throws -> Artifact {
        guard let artifact = targets[name] else {
            throw EdgeQKVError("\(folder.path) holds \(targets.keys.sorted()), not '\(name)'")
        }
        return artifact
    }

    /// Compare every file with its checksum: what was copied is what was exported.
    public func check() throws {
        for (name, card) in files {
            let file = folder.appending(path: name)
            guard let bytes = try? file.resourceValues(forKeys: [.fileSizeKey]).fileSize else {
                throw EdgeQKVError("the bundle is incomplete: '\(name)' is missing. Copy it again")
            }
            guard bytes == card.bytes, try hash(file) == card.sha256 else {
                throw EdgeQKVError("'\(name)' is not the file that was exported. Copy the bundle again")
            }
        }
    }

    /// Bytes that the budget in the bundle predicts for a target, by phase; nil if it was exported without one.
    public func budget(_ target: String) throws -> [String: Int]? {
        guard let data = try? Data(contentsOf: folder.appending(path: "report.json")) else { return nil }
        return try JSONDecoder().decode(Budget.self, from: data).candidates.first { $0.target == target }?.phases
    }

    private struct Format: Decodable {
        let format: Int
    }

    /// Read before the rest, which has other fields for another kind of model.
    private struct Kind: Decodable {
        struct Model: Decodable {
            let kind: String
        }

        let model: Model
    }

    private struct Manifest: Decodable {
        struct Model: Decodable {
            let variant: String
        }

        struct Tokenizer: Decodable {
            let file: String
            let eosTokenIDs: [Int]
            let chat: ChatCard?

            enum CodingKeys: String, CodingKey {
                case file, chat
                case eosTokenIDs = "eos_token_ids"
            }
        }

        struct Target: Decodable {
            let artifact: Artifact
        }

        let model: Model
        let tokenizer: Tokenizer?
        let targets: [String: Target]
        let files: [String: FileCard]
    }

    private struct Budget: Decodable {
        struct Candidate: Decodable {
            let target: String
            let phases: [String: Int]
        }

        let candidates: [Candidate]
    }
}
